"""How large a pixel of a level of a TIFF may be, by its size, its tiles and its resolution."""

import math

from tifffile import TiffPage

from slidemill.slides.readers.base import Size, is_like, is_padded, is_rounded
from slidemill.slides.readers.tiff_text import resolution

MIN_STEP = 1.2
"""A level is at least so many times smaller than the one above. Scanners and writers take 2 to 4,
some 1.4; what is only a few per cent smaller is another core, scene or focal plane."""
STATED_SLACK = 0.002
"""How far the size of a level may be off what its resolution says, for resolutions are rounded."""
MAX_SCALES = 24
"""Scales that are tried where padding leaves several."""


def stated_scale(base: TiffPage, page: TiffPage) -> float | None:
    """Level-0 pixels per pixel of a level by the resolution tags of both.

    None where either has none, where they are the same (many writers repeat those of level 0), or
    where the axes disagree.
    """
    ratios = []
    for name in ("XResolution", "YResolution"):
        full, own = resolution(base, name), resolution(page, name)
        if full is None or own is None or full <= 0 or own <= 0:
            return None
        ratios.append(full / own)
    units = [one.tags.get("ResolutionUnit") for one in (base, page)]
    codes = [2 if unit is None else int(unit.value) for unit in units]
    x, y = ratios
    if codes[0] != codes[1] or abs(x / y - 1) > 0.01 or x <= 1.001:
        return None
    mean = (x + y) / 2
    # Resolutions are stored as fractions and in single precision.
    return float(round(mean)) if abs(mean / round(mean) - 1) < 0.001 else mean


def scales(
    full: Size, above: float, size: Size, tile: Size | None, stated: float | None
) -> tuple[list[float], bool]:
    """Scales that a level may have, the likeliest first; none where it is no level by its size.

    Args:
        full: Width and height of level 0, pixels.
        above: Scale of the level above.
        size: Width and height of the level as stored, pixels.
        tile: Width and height of its tiles; None where it has none.
        stated: What the file states.

    Returns:
        The scales, and whether the first is what the file states.
    """
    least = above * MIN_STEP
    if stated is not None and stated >= least and _is_plausible(full, size, tile, stated):
        return [stated], True
    if any(own > edge for own, edge in zip(size, full, strict=True)):
        return [], False
    mean = (full[0] / size[0] + full[1] / size[1]) / 2
    found = []
    if is_rounded(full, size, max(1, round(mean))):
        found.append(float(round(mean)))
    elif is_like(full, size):
        found.append(mean)
    if tile is not None:
        start = math.ceil(max(least, full[0] / size[0], full[1] / size[1]) - 1e-9)
        several = [float(above * step) for step in range(2, 9)]
        near = [float(scale) for scale in range(start, start + MAX_SCALES)]
        likely = [one for one in several + near if is_padded(full, size, tile, one)]
        # Padding is the likelier reason of a quotient that is not whole.
        found = found + likely if found and found[0].is_integer() else likely + found
    kept = dict.fromkeys(one for one in found if one >= least)
    return list(kept)[:MAX_SCALES], False


def _is_plausible(full: Size, size: Size, tile: Size | None, scale: float) -> bool:
    close = all(
        abs(edge / scale - own) <= 1 + STATED_SLACK * own
        for edge, own in zip(full, size, strict=True)
    )
    return close or (tile is not None and is_padded(full, size, tile, scale))
