"""A directory of a TIFF as a level of a slide, and what its metadata say.

`tiff_pyramid` decides which directories are levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, PLANARCONFIG, TiffPage

from slidemill.slides.readers.base import (
    DamagedError,
    Size,
    UnsupportedError,
    check_size,
)

MAX_PIECE_BYTES = 512 * 2**20
"""Decoded size of the largest stored piece; more of it would have to be held at once."""
RAW_PIECE_BYTES = 4 * 2**20
"""Uncompressed rows are read in pieces of about this many bytes."""

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


def full_page(page: object) -> TiffPage:
    """A directory with all of its tags, which tifffile leaves out of those that look alike."""
    full = page if isinstance(page, TiffPage) else page.aspage()  # type: ignore[attr-defined]
    assert isinstance(full, TiffPage)
    return full


def level_of(pages: list[TiffPage]) -> TiffLevel:
    """An image as a level.

    Args:
        pages: Its directory, or those that are one colour each.

    Raises:
        UnsupportedError: If it is of a kind that is not read.
        OpenError: If it is damaged.
    """
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
