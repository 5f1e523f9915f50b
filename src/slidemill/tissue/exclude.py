"""What is on a slide but is no tissue: ink, dark borders, edges of coverslips, air bubbles.

Numerics only: arrays in, arrays out. Colours are judged as optical densities against glass, in
which a stain keeps its direction at any strength (Beer-Lambert; directions of Ruifrok and Johnston,
2001): haematoxylin absorbs red 0.93 times as much as green and eosin and DAB less than half, so
what absorbs red half as much again as green is blue or green ink. Red ink passes nearly all red,
which blood does not. Other stains have such colours too, so ink is also even
(`slidemill.tissue.texture`). Black ink and borders absorb everything; dense nuclei and DAB do not
absorb their lightest channel. Edges and bubbles are grey, thin and long, with glass about them.
"""

from collections.abc import Collection

import cv2
import numpy as np
import numpy.typing as npt

from slidemill.tissue.classes import KINDS, Kind, TissueClass
from slidemill.tissue.texture import Texture, keep_even

Mask = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.uint8]
"""Masks as OpenCV has them, 0 or 255."""
Plane = npt.NDArray[np.int16]
Planes = tuple[Plane, Plane, Plane]
"""Red, green and blue as thousandths of optical density (natural logarithm) against glass."""

MIN_INK_MM2 = 0.015
"""Smaller areas of ink's colour are stain or debris."""
INK_REACH_UM = 200.0
"""Ink thins out this far from where it is unmistakable."""
HALO_UM = 80.0
"""Ink tints glass this far."""
MIN_LINE_MM = 0.5
"""Shorter grey lines are debris, which the smallest area drops."""
MAX_LINE_UM = 110.0
"""Width of the widest edge or ring."""
MAX_WINDING = 3.5
"""Length of a line over its span; a ring has 2.2 to 3.1, a mesh of tissue more."""
MAX_ROUGH = 0.07
"""Roughness of coloured ink: painted and real strokes have up to 0.05, stained tissue from 0.08."""
MAX_ROUGH_BLACK = 0.06
"""The same of black ink; melanin has 0.07."""
RING = 2
"""A line that encloses this many times its own area is a ring."""
BORDER_SHARE = 0.12
"""A dark area along at least this share of an edge of the picture is a border, not ink."""
BLACK = 1150
"""Density of the lightest channel from which on a pixel is black."""
MIN_CORE = 0.3
"""Share of a narrow stroke that is at least three pixels wide; folds and dense nuclei have less."""
PITCH_BLACK = 2600
"""Density that only a scanner's filling has."""


def components(
    bits: npt.NDArray[np.uint8], connectivity: int
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.int64]]:
    """Connected components of what is not 0.

    Args:
        bits: (H, W) uint8.
        connectivity: 4 or 8 neighbours.

    Returns:
        Number of the component of every pixel, (H, W), 0 for none; and the area of every
        component by its number, pixels.
    """
    # OpenCV's own statistics take five times as long as the labels and this count.
    count, labels = cv2.connectedComponents(bits, None, connectivity, cv2.CV_32S)
    if count > np.iinfo(np.uint16).max:
        return np.asarray(labels), np.bincount(labels.ravel(), minlength=count)
    short = labels.astype(np.uint16)
    area = cv2.calcHist([short], [0], None, [count], [0, count]).ravel().astype(np.int64)
    area[0] = bits.size - area[1:].sum()
    return short, area


def extremes(densities: Planes) -> tuple[Plane, Plane]:
    """Densities of the least and of the most absorbed channel, each (H, W) int16."""
    red, green, blue = densities
    lightest = cv2.min(cv2.min(red, green), blue)
    darkest = cv2.max(cv2.max(red, green), blue)
    return np.asarray(lightest, np.int16), np.asarray(darkest, np.int16)


def find_excluded(
    densities: Planes, mpp: float, kinds: Collection[Kind] = KINDS
) -> npt.NDArray[np.uint8]:
    """Areas that are neither tissue nor glass.

    Args:
        densities: Red, green and blue, each (H, W) int16; 16 um per pixel is fine enough.
        mpp: um per pixel.
        kinds: What is left out. What is found and not among these is GLASS, and nothing else.

    Returns:
        (H, W) uint8 with PEN, BLACK and OTHER of `TissueClass`, and GLASS elsewhere.
    """
    lightest, darkest = extremes(densities)
    borders, black_ink, narrow = _black(lightest, darkest, mpp)
    ink = _even((*_coloured_ink(densities, mpp), black_ink), densities)
    # Light that strays from ink tints the glass about it.
    halo = _both((lightest < 80) & (darkest < 350), darkest - lightest > 30)
    ink = _grow(ink, halo, mpp, reach_um=HALO_UM)
    ink = _dilate(ink, _disc(20.0 / mpp))
    lines = _thin_lines(lightest, darkest, ink | borders, mpp)
    ink |= _dilate(_apart(narrow, lines), _disc(40.0 / mpp))
    classes = np.zeros(lightest.shape, np.uint8)
    rings = _rings(lines)
    # Later ones win, also those that are not asked for: unlisted ink is no edge.
    for kind, where, value in (
        ("edge", lines, TissueClass.OTHER),
        ("bubble", rings, TissueClass.OTHER),
        ("pen", ink, TissueClass.PEN),
        ("border", borders, TissueClass.BLACK),
    ):
        classes[where > 0] = value if kind in kinds else TissueClass.GLASS
    return classes


def _rings(lines: Bits) -> Bits:
    """Those of the lines that go round something: bubbles. Open arcs are edges."""
    rings = np.zeros_like(lines)
    outlines, _ = cv2.findContours(lines, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for outline in outlines:
        x, y, w, h = cv2.boundingRect(outline)
        filled = np.zeros((h, w), np.uint8)
        cv2.drawContours(filled, [outline], 0, 255, -1, offset=(-x, -y))
        part = np.s_[y : y + h, x : x + w]
        own = cv2.bitwise_and(lines[part], filled)
        if np.count_nonzero(filled) > RING * np.count_nonzero(own):
            rings[part] |= np.asarray(own, np.uint8)
    return rings


def _even(candidates: tuple[Bits, Bits, Bits], densities: Planes) -> Bits:
    """Ink, of what has the colours of cold, of warm and of black ink."""
    if not any(bits.any() for bits in candidates):
        return candidates[0]
    texture = Texture.of(densities)
    cold, warm, black = candidates
    ink = keep_even(cold, texture, MAX_ROUGH) | keep_even(warm, texture, MAX_ROUGH)
    return ink | keep_even(black, texture, MAX_ROUGH_BLACK)


def _coloured_ink(densities: Planes, mpp: float) -> tuple[Bits, Bits]:
    """What has the colours of ink: cold (blue, green) and warm (red)."""
    red, green, blue = densities
    # Blue counterstain may be as blue as ink, but it is never as strong.
    bluish = _both(red > 450, 2 * red > 3 * green)
    bluish = _seeded(bluish, red > 750, mpp)
    # Over tissue the stain adds green; haematoxylin this strong never absorbs red more than green.
    bluish |= _seeded(_both(red > 1100, 10 * red > 11 * green), red > 1300, mpp)
    greenish = _both(red > 350, (5 * red > 9 * green) & (10 * blue > 7 * green))
    cold = bluish | greenish
    pale_cold = _both(red > 110, 5 * red > 6 * green)
    # Blood passes less red. What hardly passes green and blue is ink even if red is dimmed.
    strong = _both(green > 1250, 8 * red < green)
    thick = _both(green > 2300, 4 * blue > 3 * green)
    thick &= _both(6 * green > 5 * blue, 2 * red < green)
    warm = _both(strong > 0, 5 * blue > 3 * green) | thick
    pale = _both(green > 350, 5 * red < green)
    pale_warm = _both(pale > 0, 9 * blue > 5 * green)
    cold = _grow(_large(cold, mpp), pale_cold, mpp)
    # Pale red ink on glass is no eosin: it passes all red, and absorbs blue nearly as green.
    thin = _both(green > 400, (7 * red < green) & (8 * blue > 5 * green))
    warm = _seeded(warm | thin, warm > 0, mpp, share=0.02)
    return cold, _grow(warm, pale_warm, mpp)


def _black(lightest: Plane, darkest: Plane, mpp: float) -> tuple[Bits, Bits, Bits]:
    """Dark borders, black ink, and narrow strokes that are ink unless they are an edge of glass."""
    # Heavy DAB and thick tissue may be as dark, but brown or red: their channels lie apart.
    dark = _both(lightest > BLACK, 2 * (darkest - lightest) < darkest)
    if not dark.any():
        return dark, dark, dark
    labels, area = components(dark, 8)
    count = len(area)
    along = np.zeros(count, np.float64)
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        along = np.maximum(along, np.bincount(side, minlength=count) / len(side))
    pitch = np.bincount(labels[lightest > PITCH_BLACK], minlength=count)
    large = area >= MIN_INK_MM2 * 1e6 / mpp**2
    is_border = large & ((along > BORDER_SHARE) | (pitch > 0.8 * area))
    # What is no wider than an edge of glass is left to `_thin_lines`.
    size = 2 * round(MAX_LINE_UM / mpp / 2) + 1
    broad = cv2.morphologyEx(dark, cv2.MORPH_OPEN, np.ones((size, size), np.uint8))
    is_ink = large & ~is_border & (np.bincount(labels[broad > 0], minlength=count) > 0)
    core = cv2.morphologyEx(dark, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    is_narrow = large & ~is_border & ~is_ink
    is_narrow &= np.bincount(labels[core > 0], minlength=count) > MIN_CORE * area
    is_border[0] = is_ink[0] = is_narrow[0] = False
    dusk = _both(lightest > 700, 5 * (darkest - lightest) < 2 * darkest)
    grey = _both(lightest > 120, 3 * (darkest - lightest) < darkest)
    return (
        _grow(_bits(is_border[labels]), grey, mpp, reach_um=60.0),
        _grow(_bits(is_ink[labels]), dusk, mpp, reach_um=120.0),
        _grow(_bits(is_narrow[labels]), dusk, mpp, reach_um=60.0),
    )


def _apart(strokes: Bits, lines: Bits) -> Bits:
    """Strokes of which the better part is not among the lines."""
    if not strokes.any():
        return strokes
    labels, area = components(strokes, 8)
    apart = 2 * np.bincount(labels[lines > 0], minlength=len(area)) < area
    apart[0] = False
    return _bits(apart[labels])


def _thin_lines(
    lightest: Plane,
    darkest: Plane,
    known: Bits,
    mpp: float,
) -> Bits:
    """Grey lines and rings over glass."""
    size = 2 * round(MAX_LINE_UM / mpp / 2) + 3
    kernel = np.ones((size, size), np.uint8)
    density = np.clip(lightest, 0, 1020)
    relief = density - cv2.morphologyEx(density, cv2.MORPH_OPEN, kernel)
    # A lens gives dark edges a fringe of colour; weak stain is as weakly coloured, but not dark.
    saturation = darkest - lightest
    fringed = (relief > 200) & (5 * saturation < 2 * darkest)
    grey = _bits(((relief > 40) & (4 * saturation < darkest)) | fringed)
    grey[known > 0] = 0
    if not grey.any():
        return grey
    _, labels, stats, _ = cv2.connectedComponentsWithStats(grey, connectivity=8)
    labels = np.asarray(labels)
    spans = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    area = stats[:, cv2.CC_STAT_AREA]
    keep = (spans * mpp >= MIN_LINE_MM * 1e3) & (area * mpp <= MAX_WINDING * MAX_LINE_UM * spans)
    keep[0] = False
    for label in np.flatnonzero(keep):
        x, y, w, h = stats[label, :4]
        part = np.s_[max(0, y - 4) : y + h + 4, max(0, x - 4) : x + w + 4]
        own = _bits(labels[part] == label)
        about = (_dilate(own, np.ones((7, 7), np.uint8)) > 0) & (own == 0)
        plain = (saturation[part] < 35) & (darkest[part] < 150)
        keep[label] = plain[about].mean() > 0.6 and _length(own) <= MAX_WINDING * spans[label]
    return _dilate(_bits(keep[labels]), np.ones((3, 3), np.uint8))


def _length(line: Bits) -> float:
    """Length of a thin shape in pixels: half of all its outlines."""
    outlines, _ = cv2.findContours(line, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return sum(cv2.arcLength(outline, True) for outline in outlines) / 2


def _grow(core: Bits, allowed: Bits, mpp: float, reach_um: float = INK_REACH_UM) -> Bits:
    """A core and what is allowed and connected to it within a reach."""
    if not core.any():
        return core
    steps = max(1, round(reach_um / mpp))
    x, y, w, h = cv2.boundingRect(core)
    part = np.s_[max(0, y - steps) : y + h + steps, max(0, x - steps) : x + w + steps]
    grown = core[part]
    allowed = grown | allowed[part]
    kernel = np.ones((3, 3), np.uint8)
    for _ in range(steps):
        grown = _dilate(grown, kernel) & allowed
    result = core.copy()
    result[part] = grown
    return result


def _large(mask: Bits, mpp: float) -> Bits:
    """Components of at least `MIN_INK_MM2`."""
    return _seeded(mask, mask > 0, mpp)


def _seeded(mask: Bits, seeds: Mask, mpp: float, share: float = 0.1) -> Bits:
    """Components of at least `MIN_INK_MM2` of which a share are seeds."""
    if not mask.any():
        return mask
    labels, area = components(mask, 8)
    seeded = np.bincount(labels[seeds], minlength=len(area)) >= share * area
    keep = seeded & (area >= MIN_INK_MM2 * 1e6 / mpp**2)
    keep[0] = False
    return _bits(keep[labels])


def _dilate(bits: Bits, kernel: Bits) -> Bits:
    return np.asarray(cv2.dilate(bits, kernel), np.uint8)


def _both(a: Mask, b: Mask) -> Bits:
    return _bits(a & b)


def _bits(mask: Mask) -> Bits:
    return mask.view(np.uint8) * np.uint8(255)


def _disc(radius: float) -> Bits:
    size = 2 * max(1, round(radius)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), np.uint8)
