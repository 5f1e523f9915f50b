"""What a DICOM series says of itself: which files are its levels, and how their frames lie.

Both readers of DICOM ask here before they show a pixel, so that they take the same files for levels
and refuse the same ones. A series is the files of a folder that bear the same SeriesInstanceUID,
whatever their names. Levels are its VOLUME images; labels, overviews, thumbnails and localizers are
none. How frames are assembled is never assumed: a level is laid out in full (TILED_FULL), or every
frame says where it lies, or there is only one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slidemill.slides.readers.base import OpenError, Size, UnsupportedError, check_size, faults_of
from slidemill.slides.readers.dicom_colour import JPEG, Colour, colour_of, first_frame
from slidemill.slides.readers.dicom_file import (
    attributes_of,
    count_of,
    flavour_of,
    pixels_at,
    places_of,
    properties_of,
    quiet,
    series_uid,
    spacing_of,
    text_of,
)
from slidemill.slides.resolution import is_plausible

if TYPE_CHECKING:
    from pydicom import Dataset

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""SOP class of whole slide images (DICOM PS3.6)."""
JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
"""Transfer syntaxes (DICOM PS3.5, annex A.4) of JPEG 2000."""
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
"""Photometric interpretations of 8-bit colour that the readers convert."""
UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99")
"""Transfer syntaxes whose pixels are stored as they are; they need to be RGB."""
_ROUNDING = 1e-3
"""Spacings have few digits: a ratio this near to a whole number, relatively, is that number."""
_LEAST_STEP = 1.1
"""How many times coarser a level is at least than the one before."""
_MISFIT = 1.25
"""Factor by which the extent of a level may differ from that of level 0 without padding."""


@dataclass(frozen=True)
class SeriesLevel:
    """A level of a series.

    Attributes:
        files: The instances that it is stored in, in the order of their frames.
        size: Width and height, pixels; with padding where the file counts it in.
        tile: Width and height of its frames, pixels.
        spacing: um per pixel in x and y; None where it says none.
        organization: DimensionOrganizationType; empty where it says none.
        places: Where its frames lie, as indices of tiles counted row by row; None where they lie
            row by row and complete.
        transfer_syntax: How its frames are stored.
        colour: What the colours of its frames are as stored, as far as JPEG frames say so.
        says_otherwise: Whether its attributes say other colours than its frames do.
        properties: Its metadata, by OpenSlide's names where it has some.
    """

    files: tuple[Path, ...]
    size: Size
    tile: Size
    spacing: tuple[float, float] | None
    organization: str
    places: frozenset[int] | None
    transfer_syntax: str
    colour: Colour | None
    says_otherwise: bool
    properties: Mapping[str, str]


@dataclass(frozen=True)
class Series:
    """The pyramid of a series.

    Attributes:
        levels: Its levels, finest first.
        left_out: Levels that are left out, in words.
    """

    levels: tuple[SeriesLevel, ...]
    left_out: tuple[str, ...] = ()


def series_files(path: Path, limit: int | None = None) -> tuple[Path, ...] | None:
    """The other DICOM files of the same series in a file's folder, whatever their names; sorted.

    Args:
        path: A file of the series.
        limit: How many files of the folder are looked at at most.

    Returns:
        The files; None if the folder has more than `limit` others.

    Raises:
        OSError: If the folder cannot be listed.
    """
    others = [one for one in path.parent.iterdir() if one != path and one.is_file()]
    if limit is not None and len(others) > limit:
        return None
    own = series_uid(path)
    return tuple(sorted(one for one in others if own is not None and series_uid(one) == own))


def read_series(path: Path) -> Series:
    """The pyramid of the series that a file belongs to.

    Args:
        path: Any file of the series, also one that is no level.

    Raises:
        UnsupportedError: If a level is of a kind that is not read, or it cannot be known how its
            frames lie, or the series has no level.
        OpenError: If the attributes contradict each other or do not parse.
    """
    with faults_of("pydicom", OpenError), quiet():
        own = attributes_of(path)
        if str(own.get("SOPClassUID", "")) != WHOLE_SLIDE:
            kind = getattr(own.get("SOPClassUID"), "name", "DICOM of no class")
            raise UnsupportedError(f"it is no whole slide image, but {kind}")
        instances = {text_of(own, "SOPInstanceUID"): own}
        for other in series_files(path) or ():
            found = attributes_of(other)
            if str(found.get("SOPClassUID", "")) == WHOLE_SLIDE:
                # The same instance under two names is one.
                instances.setdefault(text_of(found, "SOPInstanceUID"), found)
        volumes = [one for one in instances.values() if flavour_of(one) == "VOLUME"]
        if not volumes:
            raise UnsupportedError(_no_level(own))
        levels = [_level(parts) for parts in _by_concatenation(volumes)]
    if len({text_of(one, "PyramidUID") for one in volumes} - {""}) > 1:
        raise UnsupportedError(
            "its series has several pyramids; put the files of each in a folder of its own"
        )
    return _pyramid(levels)


def stated_scales(series: Series) -> tuple[float | None, ...]:
    """Level-0 pixels per pixel of every level, by the spacings that the levels state."""
    return tuple(_scale(level, series.levels[0]) for level in series.levels)


def has_jpeg_2000(path: Path) -> bool:
    """Whether a level of a file's series is stored in JPEG 2000; False where that is not known."""
    try:
        series = read_series(path)
    except OpenError:
        return False
    return any(level.transfer_syntax in JPEG_2000 for level in series.levels)


def _scale(level: SeriesLevel, base: SeriesLevel) -> float | None:
    if level.spacing is None or base.spacing is None or not all(map(is_plausible, base.spacing)):
        return None
    ratios = [own / first for own, first in zip(level.spacing, base.spacing, strict=True)]
    if abs(ratios[0] / ratios[1] - 1) > 0.01:
        return None
    scale = sum(ratios) / 2
    whole = max(1, round(scale))
    scale = float(whole) if abs(scale / whole - 1) <= _ROUNDING else scale
    # A spacing that was copied from another level says nothing of this one.
    fits = zip(level.size, level.tile, base.size, base.tile, strict=True)
    return scale if all(_fits(scale, *axis) for axis in fits) else None


def _fits(scale: float, edge: int, tile: int, base: int, base_tile: int) -> bool:
    """Whether a level of a scale can have an edge: levels may be padded to whole tiles."""
    extent = edge * scale
    if base / _MISFIT <= extent <= base * _MISFIT:
        return True
    return base - base_tile - scale <= extent <= base + 2 * tile * scale


def _no_level(own: "Dataset") -> str:
    """Why a series without a VOLUME is none of a slide."""
    flavour = flavour_of(own)
    if flavour:
        return f"its series has only {flavour.lower()} and the like, and no level (VOLUME)"
    said = "it does not say what it shows (ImageType)"
    frames = count_of(own, "NumberOfFrames", 1)
    if frames > 1 and not text_of(own, "DimensionOrganizationType"):
        places = places_of(Path(own.filename))
        if places is None:
            said += f", {_unknown_order(frames)}"
    return said


def _unknown_order(frames: int) -> str:
    return (
        f"nor how its {frames} frames lie (neither DimensionOrganizationType nor their positions): "
        "assembled by guess, it may be scrambled"
    )


def _by_concatenation(volumes: Iterable["Dataset"]) -> list[list["Dataset"]]:
    """The instances of each level, in the order of their frames."""
    found: dict[str, list[Dataset]] = {}
    for one in volumes:
        source = text_of(one, "SOPInstanceUIDOfConcatenationSource")
        found.setdefault(source or text_of(one, "SOPInstanceUID"), []).append(one)
    return [
        sorted(parts, key=lambda one: count_of(one, "ConcatenationFrameOffsetNumber", 0))
        for parts in found.values()
    ]


def _level(parts: list["Dataset"]) -> SeriesLevel:
    """A level by its instances."""
    first = parts[0]
    for one in parts:
        _check_kind(one)
        if any(_frame_layout(one) != _frame_layout(first) for one in parts):
            raise OpenError("parts of one level (concatenation) are of different sizes")
    size = (count_of(first, "TotalPixelMatrixColumns"), count_of(first, "TotalPixelMatrixRows"))
    tile = (count_of(first, "Columns"), count_of(first, "Rows"))
    check_size(size)
    check_size(tile)
    frames, offset = 0, 0
    for one in parts:
        offset = count_of(one, "ConcatenationFrameOffsetNumber", 0)
        if offset != frames:
            raise OpenError(
                f"frames {min(frames, offset)} to {max(frames, offset)} of a level are "
                "missing or there twice (concatenation)"
            )
        frames += count_of(one, "NumberOfFrames", 1)
    organization = text_of(first, "DimensionOrganizationType")
    said = "RGB" if text_of(first, "PhotometricInterpretation") == "RGB" else "YCbCr"
    colour = _colour(first)
    return SeriesLevel(
        files=tuple(Path(one.filename) for one in parts),
        size=size,
        tile=tile,
        spacing=spacing_of(first),
        organization=organization,
        places=_layout(parts, size, tile, frames, organization),
        transfer_syntax=str(first.file_meta.TransferSyntaxUID),
        colour=colour,
        says_otherwise=colour is not None and said != colour,
        properties=properties_of(first),
    )


def _frame_layout(one: "Dataset") -> tuple[object, ...]:
    names = ("TotalPixelMatrixColumns", "TotalPixelMatrixRows", "Columns", "Rows")
    return (
        *(one.get(name) for name in names),
        text_of(one, "DimensionOrganizationType"),
        str(one.file_meta.TransferSyntaxUID),
    )


def _check_kind(one: "Dataset") -> None:
    """Refuse a level whose pixels are not 8-bit RGB of one focal plane, by name."""
    photometric = text_of(one, "PhotometricInterpretation") or "of no stated colour"
    samples = one.get("SamplesPerPixel")
    if samples is None:
        raise OpenError("it does not say how many samples a pixel has (SamplesPerPixel)")
    bits = (count_of(one, "BitsAllocated"), count_of(one, "BitsStored", 8))
    if int(samples) != 3 or photometric not in COLOURS:
        raise UnsupportedError(f"its pixels are {photometric} with {samples} sample(s), not RGB")
    if bits != (8, 8):
        raise UnsupportedError(f"its samples have {bits[1]} of {bits[0]} bits, not 8")
    if str(one.file_meta.TransferSyntaxUID) in UNCOMPRESSED and (
        photometric != "RGB" or count_of(one, "PlanarConfiguration", 0)
    ):
        planes = ", plane by plane" if count_of(one, "PlanarConfiguration", 0) else ""
        raise UnsupportedError(f"its pixels are uncompressed {photometric}{planes}")
    paths = max(count_of(one, "NumberOfOpticalPaths", 1), len(one.get("OpticalPathSequence") or ()))
    if paths > 1:
        raise UnsupportedError(f"it has {paths} optical paths, as fluorescence has")
    planes_of_focus = count_of(one, "TotalPixelMatrixFocalPlanes", 1)
    if planes_of_focus > 1:
        raise UnsupportedError(f"it is a stack of {planes_of_focus} focal planes")


def _colour(one: "Dataset") -> Colour | None:
    """What the first frame of an instance says that its colours are."""
    if str(one.file_meta.TransferSyntaxUID) not in JPEG:
        return None
    path = Path(one.filename)
    return colour_of(first_frame(path, pixels_at(path)))


def _layout(
    parts: list["Dataset"], size: Size, tile: Size, frames: int, organization: str
) -> frozenset[int] | None:
    """Where frames lie; see `SeriesLevel.places`."""
    across, down = (-(-edge // step) for edge, step in zip(size, tile, strict=True))
    if organization == "TILED_FULL" or (frames == 1 and across * down == 1):
        if frames != across * down:
            raise OpenError(f"it has {frames} frames, and {across} x {down} would fill it")
        return None
    if organization not in ("", "TILED_SPARSE"):
        raise UnsupportedError(f"its frames are organized as {organization}, not as tiles")
    found: list[int] = []
    for one in parts:
        placed = places_of(Path(one.filename))
        if placed is None:
            raise UnsupportedError(f"it does not say what is where, {_unknown_order(frames)}")
        if len(placed) != count_of(one, "NumberOfFrames", 1):
            raise OpenError(f"it has {frames} frames and positions of {len(placed)}")
        for x, y in placed:
            column, row = x // tile[0], y // tile[1]
            if x % tile[0] or y % tile[1] or not (0 <= column < across and 0 <= row < down):
                raise UnsupportedError(f"a frame lies at ({x}, {y}), off the grid of tiles")
            found.append(row * across + column)
    if len(set(found)) != len(found):
        raise UnsupportedError("several frames lie at one place, as those of focal planes do")
    return None if found == list(range(across * down)) else frozenset(found)


def _pyramid(levels: list[SeriesLevel]) -> Series:
    """Sort levels.

    Raises:
        UnsupportedError: If two are of one size and nothing shows that they differ in scale.
    """
    kept: list[SeriesLevel] = []
    left_out = []
    for level in sorted(levels, key=_fineness):
        if not kept or level.size != kept[-1].size:
            kept.append(level)
            continue
        # The last levels of a padded pyramid are both of one tile.
        scale = _scale(level, kept[-1])
        if scale is None or scale < _LEAST_STEP:
            raise UnsupportedError(
                "its series has several images of one size, as focal planes, channels or scenes "
                "have"
            )
        left_out.append(
            f"{level.files[0].name}: as large as the level before it, {level.size[0]} x "
            f"{level.size[1]} px, but {scale:.6g} times coarser"
        )
    return Series(tuple(kept), tuple(left_out))


def _fineness(level: SeriesLevel) -> tuple[int, float]:
    return (-level.size[0] * level.size[1], level.spacing[0] if level.spacing else 0.0)
