"""Which directories of a TIFF are the slide's levels, and what its metadata say.

Levels are the SubIFDs of the first directory where it has some (OME); otherwise every further tiled
directory that is smaller and of the same shape, which leaves out thumbnails, labels and macros.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

import numpy as np
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, PLANARCONFIG, TiffFile, TiffPage

from slidemill.slides.readers.base import (
    DamagedError,
    OpenError,
    Size,
    UnsupportedError,
    check_size,
)

MAX_PIECE_BYTES = 512 * 2**20
"""Decoded size of the largest stored piece; more of it would have to be held at once."""
RAW_PIECE_BYTES = 4 * 2**20
"""Uncompressed rows are read in pieces of about this many bytes."""
ASPECT_TOLERANCE = 0.02
"""How far the aspect of a level may be off that of level 0; halving rounds small levels."""
MAX_DIRECTORIES = 512
"""Directories that are looked at; a slide has a dozen."""

_PHOTOMETRIC = {
    PHOTOMETRIC.MINISBLACK,
    PHOTOMETRIC.MINISWHITE,
    PHOTOMETRIC.RGB,
    PHOTOMETRIC.YCBCR,
}
_COLOURS = {PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR}
_COMPRESSION = {
    COMPRESSION.NONE,
    COMPRESSION.LZW,
    COMPRESSION.JPEG,
    COMPRESSION.ADOBE_DEFLATE,
    COMPRESSION.DEFLATE,
    COMPRESSION.PACKBITS,
    COMPRESSION.APERIO_JP2000_YCBC,
    COMPRESSION.APERIO_JP2000_RGB,
    COMPRESSION.JPEG2000,
    COMPRESSION.ZSTD,
    COMPRESSION.WEBP,
    COMPRESSION.LERC,
    COMPRESSION.JPEGXL,
}


_CONVERTING = {
    COMPRESSION.JPEG,
    COMPRESSION.APERIO_JP2000_YCBC,
    COMPRESSION.JPEG2000,
    COMPRESSION.WEBP,
    COMPRESSION.JPEGXL,
}
"""Codecs whose streams convert their colours to RGB."""
_FULL_RANGE = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)
"""ReferenceBlackWhite of luma and chroma over all of 0 to 255, TIFF 6.0's default for them."""


@dataclass(frozen=True)
class TiffLevel:
    """One level.

    Attributes:
        size: Width and height, pixels.
        segment: Width and height of its tiles or strips.
        across: Tiles in a row; 1 for strips.
        planes: Directories that together give the colours, each with what is added to the index of
            a piece to find its plane there.
        alpha: What a fourth channel is: `straight` or `premultiplied` transparency as the file says
            (ExtraSamples of TIFF 6.0), else `none`.
        is_ycbcr: Whether pieces decode to luma and chroma, which are still to be converted.
        inverted: Whether 0 is white.
        raw_offset: Where the rows begin, if they lie in the file one after the other as they are;
            they are then cut as we like, whatever the file's own strips are.
    """

    size: Size
    segment: Size
    across: int
    planes: tuple[tuple[TiffPage, int], ...]
    alpha: Literal["none", "straight", "premultiplied"]
    inverted: bool
    raw_offset: int | None = None
    is_ycbcr: bool = False


def find_levels(file: TiffFile) -> tuple[TiffLevel, ...]:
    """The levels of a slide, finest first.

    Raises:
        UnsupportedError: If level 0 is of a kind that is not read.
        OpenError: If there is no directory, or it is damaged.
    """
    if not len(file.pages):
        raise OpenError("it has no directory")
    first = _page(file, 0)
    channels = _ome_channels(file, first)
    if channels == 1:
        _check_no_channels(file, first)
    below: list[list[TiffPage]] = []
    if first.subifds:
        subs = [
            [_full(sub) for sub in (page.pages or ())] for page in _channel_pages(file, channels)
        ]
        below = [list(group) for group in zip(*subs, strict=False)]
    elif channels == 1:
        count = min(len(file.pages), MAX_DIRECTORIES)
        below = [[_page(file, i)] for i in range(1, count)]
    levels = [_level(_channel_pages(file, channels))]
    for pages in below:
        page = pages[0]
        if (page.is_tiled or first.subifds) and _is_smaller(levels[-1].size, page):
            try:
                levels.append(_level(pages))
            except OpenError:
                # An odd directory further down takes nothing from the levels above it.
                break
    return tuple(levels)


def _page(file: TiffFile, index: int) -> TiffPage:
    return _full(file.pages[index])


def _full(page: object) -> TiffPage:
    full = page if isinstance(page, TiffPage) else page.aspage()  # type: ignore[attr-defined]
    assert isinstance(full, TiffPage)
    return full


def _channel_pages(file: TiffFile, channels: int) -> list[TiffPage]:
    return [_page(file, i) for i in range(channels)]


def _ome_channels(file: TiffFile, first: TiffPage) -> int:
    """Number of directories that are one colour each: 3 for OME in planes, otherwise 1."""
    if not file.is_ome or first.samplesperpixel != 1:
        return 1
    found = re.search(r'SizeC="(\d+)"', first.description or "")
    count = int(found[1]) if found else 1
    if count == 1:
        return 1
    if count != 3 or len(file.pages) < 3:
        raise UnsupportedError(f"it has {count} channels (fluorescence?), not red, green and blue")
    return 3


def _check_no_channels(file: TiffFile, first: TiffPage) -> None:
    """Refuse channels that are a grey directory each, as fluorescence is stored.

    Raises:
        UnsupportedError: If a directory after the first is grey too, and as large.
    """
    if first.samplesperpixel != 1 or file.is_ome:
        return
    count = min(len(file.pages), MAX_DIRECTORIES)
    alike = sum(
        page.samplesperpixel == 1
        and (page.imagewidth, page.imagelength) == (first.imagewidth, first.imagelength)
        for page in (_page(file, i) for i in range(count))
    )
    if alike > 1:
        raise UnsupportedError(
            f"it has {alike} grey channels, a directory each (fluorescence?), not red, green and "
            "blue"
        )


def _is_smaller(above: Size, page: TiffPage) -> bool:
    width, height = int(page.imagewidth), int(page.imagelength)
    if not (0 < width < above[0] and 0 < height < above[1]):
        return False
    # A pixel of rounding in the small level is as much as the tolerance allows on top.
    slack = ASPECT_TOLERANCE + 1 / width + 1 / height
    return abs((above[0] / width) / (above[1] / height) - 1) <= slack


def _level(pages: list[TiffPage]) -> TiffLevel:
    page = pages[0]
    size = (int(page.imagewidth), int(page.imagelength))
    check_size(size)
    _check_kind(page)
    raw_offset = _raw_offset(page) if len(pages) == 1 else None
    if page.is_tiled:
        segment = (int(page.tilewidth), int(page.tilelength))
    elif raw_offset is not None:
        row_bytes = size[0] * page.samplesperpixel
        segment = (size[0], max(1, min(size[1], RAW_PIECE_BYTES // row_bytes)))
    else:
        segment = (size[0], min(int(page.rowsperstrip), size[1]))
    if min(segment) <= 0 or segment[0] * segment[1] * page.samplesperpixel > MAX_PIECE_BYTES:
        raise UnsupportedError(
            f"its pixels are stored in pieces of {segment[0]} x {segment[1]}, which cannot be held "
            "in memory; save it as a tiled TIFF"
        )
    across, down = -(-size[0] // segment[0]), -(-size[1] // segment[1])
    separate = page.planarconfig == PLANARCONFIG.SEPARATE and page.samplesperpixel > 1
    planes = (
        tuple((page, plane * across * down) for plane in range(page.samplesperpixel))
        if separate
        else tuple((one, 0) for one in pages)
    )
    for one, shift in planes if raw_offset is None else ():
        if min(len(one.dataoffsets), len(one.databytecounts)) < across * down + shift:
            raise DamagedError("its table of tiles is too short")
    return TiffLevel(
        size,
        segment,
        across,
        planes,
        alpha=_alpha(page),
        inverted=page.photometric == PHOTOMETRIC.MINISWHITE,
        raw_offset=raw_offset,
        is_ycbcr=_is_ycbcr(page),
    )


def _alpha(page: TiffPage) -> Literal["none", "straight", "premultiplied"]:
    kinds = tuple(page.extrasamples or ())
    if EXTRASAMPLE.ASSOCALPHA in kinds[:1]:
        return "premultiplied"
    return "straight" if EXTRASAMPLE.UNASSALPHA in kinds[:1] else "none"


def _is_ycbcr(page: TiffPage) -> bool:
    """Whether pieces are luma and chroma that no codec converts.

    Raises:
        UnsupportedError: If chroma is stored more coarsely than luma, or on scales of its own.
    """
    if page.photometric != PHOTOMETRIC.YCBCR or page.compression in _CONVERTING:
        return False
    found = page.tags.get("YCbCrSubSampling")
    # TIFF 6.0: without the tag chroma is halved in both directions.
    if found is None or tuple(found.value) != (1, 1):
        raise UnsupportedError("its colours are YCbCr with coarser chroma and no JPEG")
    scale = page.tags.get("ReferenceBlackWhite")
    if scale is not None and tuple(map(_quotient, _pairs(scale.value))) != _FULL_RANGE:
        raise UnsupportedError("its colours are YCbCr on a scale that is not 0 to 255")
    return True


def _pairs(values: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(values[::2], values[1::2], strict=False))


def _quotient(pair: tuple[int, int]) -> float:
    return pair[0] / pair[1] if pair[1] else float("nan")


def _raw_offset(page: TiffPage) -> int | None:
    """Where uncompressed rows begin that follow each other without a gap; None for all else."""
    is_plain = (
        page.compression == COMPRESSION.NONE
        and not page.is_tiled
        and page.planarconfig == PLANARCONFIG.CONTIG
        and page.photometric != PHOTOMETRIC.YCBCR
        and page.fillorder == 1
    )
    if not is_plain or not page.is_contiguous:
        return None
    return int(page.dataoffsets[0])


def _check_kind(page: TiffPage) -> None:
    """Refuse pixels that are no brightfield image of 8 bits.

    Raises:
        UnsupportedError: With what is not supported.
    """
    if page.compression not in _COMPRESSION:
        name = getattr(page.compression, "name", page.compression)
        raise UnsupportedError(f"its pixels are compressed by a method that is not known ({name})")
    if page.dtype != np.uint8 or page.bitspersample != 8:
        raise UnsupportedError(f"its pixels are {page.dtype}, not 8 bits a channel")
    if page.photometric not in _PHOTOMETRIC:
        name = getattr(page.photometric, "name", page.photometric)
        raise UnsupportedError(f"its colours are {name}, not RGB or grey")
    if page.samplesperpixel not in (1, 3, 4) or (
        page.photometric in _COLOURS and page.samplesperpixel < 3
    ):
        raise UnsupportedError(f"it has {page.samplesperpixel} channels")
    if page.photometric == PHOTOMETRIC.MINISWHITE and page.samplesperpixel != 1:
        raise UnsupportedError(f"it is inverted grey, and has {page.samplesperpixel} channels")
    if page.imagedepth != 1:
        raise UnsupportedError("it is a volume, not a slide")


def describe(file: TiffFile) -> tuple[str, dict[str, str]]:
    """Vendor and metadata of a TIFF, by OpenSlide's names where it has some."""
    page = _page(file, 0)
    found: dict[str, str] = {}
    for name in ("XResolution", "YResolution"):
        tag = page.tags.get(name)
        value = tag.value if tag is not None else None
        if isinstance(value, tuple) and len(value) == 2 and value[1]:
            found[f"tiff.{name}"] = repr(value[0] / value[1])
    unit = page.tags.get("ResolutionUnit")
    # TIFF 6.0: without the tag the unit is the inch.
    code = int(unit.value) if unit is not None else 2
    found["tiff.ResolutionUnit"] = {1: "none", 2: "inch", 3: "centimeter"}.get(code, "unknown")
    text = page.description or ""
    if text:
        found["tiff.ImageDescription"] = text
    if file.is_svs:
        return "aperio", found | _aperio(text)
    if file.is_ome:
        return "ome", found | _ome(text)
    return "generic-tiff", found


def _aperio(text: str) -> dict[str, str]:
    """`key = value` pairs between bars, as Aperio writes them."""
    pairs = (part.partition("=") for part in text.split("|")[1:])
    found = {f"aperio.{key.strip()}": value.strip() for key, sign, value in pairs if sign}
    if "aperio.AppMag" in found:
        found["openslide.objective-power"] = found["aperio.AppMag"]
    return found


def _ome(text: str) -> dict[str, str]:
    """Physical size of a pixel of the first image, and the objective's magnification."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return {}
    try:
        # Without a DTD, which was refused above, there are no entities to expand.
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return {}
    found: dict[str, str] = {}
    pixels = next(root.iterfind(".//{*}Pixels"), None)
    if pixels is not None:
        for name, value in pixels.attrib.items():
            if name.startswith("PhysicalSize"):
                found[f"ome.{name}"] = value
    objective = next(root.iterfind(".//{*}Objective"), None)
    power = objective.get("NominalMagnification") if objective is not None else None
    return found | ({"openslide.objective-power": power} if power else {})
