"""A directory of a TIFF as a level of a slide, and what its metadata say.

`tiff_pyramid` decides which directories are levels.
"""

from dataclasses import dataclass

from tifffile import COMPRESSION, PHOTOMETRIC, PLANARCONFIG, TiffPage

from slidemill.slides.readers.base import Size, UnsupportedError, check_size
from slidemill.slides.readers.tiff_kind import Alpha, alpha_of, check_kind
from slidemill.slides.readers.tiff_tables import check_count
from slidemill.slides.readers.tiff_ycbcr import YCbCr, ycbcr_of

MAX_PIECE_BYTES = 512 * 2**20
"""Decoded size of the largest stored piece; more of it would have to be held at once."""
RAW_PIECE_BYTES = 4 * 2**20
"""Uncompressed rows are read in pieces of about this many bytes."""


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
        ycbcr: How luma and chroma are converted, where pieces decode to them.
        inverted: Whether 0 is white.
        raw_offset: Where the rows begin, if they lie in the file one after the other as they are;
            they are then cut as we like, whatever the file's own strips are.
    """

    size: Size
    segment: Size
    across: int
    planes: tuple[tuple[TiffPage, int], ...]
    alpha: Alpha
    inverted: bool
    raw_offset: int | None = None
    ycbcr: YCbCr | None = None


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
    check_kind(page)
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
    for one in {one for one, _ in planes} if raw_offset is None else ():
        check_count(one, across * down * (one.samplesperpixel if separate else 1))
    return TiffLevel(
        size,
        segment,
        across,
        planes,
        alpha=alpha_of(page),
        inverted=page.photometric == PHOTOMETRIC.MINISWHITE,
        raw_offset=raw_offset,
        ycbcr=ycbcr_of(page),
    )


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
