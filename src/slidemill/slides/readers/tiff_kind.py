"""What the pixels of a TIFF's directory are: what is read, what is refused by name, and alpha."""

from pathlib import Path
from typing import Literal

import numpy as np
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, TiffFile, TiffPage

from slidemill.slides.readers.base import DamagedError, OpenError, UnsupportedError, faults_of
from slidemill.slides.readers.tiff_tables import check_vendors_tables
from slidemill.slides.readers.tiff_ycbcr import ycbcr_of

Alpha = Literal["none", "straight", "premultiplied"]
FILTER_SET = 65434
"""Tag in which Hamamatsu writes the name of the filters of fluorescence."""
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


def check_kind(page: TiffPage) -> None:
    """Refuse pixels that are no brightfield image of 8 bits.

    Raises:
        UnsupportedError: With what is not supported.
    """
    if page.compression not in _COMPRESSION:
        name = getattr(page.compression, "name", page.compression)
        raise UnsupportedError(f"its pixels are compressed by a method that is not known ({name})")
    check_colours(page)
    ycbcr_of(page)


def check_colours(page: TiffPage) -> None:
    """Refuse samples that are not 8 bits of grey, or of red, green and blue.

    Raises:
        UnsupportedError: With what is not supported.
        DamagedError: If the directory has values that there are not.
    """
    if page.dtype != np.uint8 or page.bitspersample != 8:
        raise UnsupportedError(
            f"its pixels are {page.dtype} of {page.bitspersample} bits, not 8 bits a channel"
        )
    if page.photometric not in _PHOTOMETRIC:
        name = getattr(page.photometric, "name", page.photometric)
        raise UnsupportedError(f"its colours are {name}, not RGB or grey")
    if page.samplesperpixel not in (1, 3, 4) or (
        page.photometric in _COLOURS and page.samplesperpixel < 3
    ):
        raise UnsupportedError(f"it has {page.samplesperpixel} channels")
    if page.photometric == PHOTOMETRIC.MINISWHITE and page.samplesperpixel != 1:
        raise UnsupportedError(f"it is inverted grey, and has {page.samplesperpixel} channels")
    if page.photometric == PHOTOMETRIC.MINISBLACK and page.samplesperpixel != 1:
        raise UnsupportedError(
            f"it is grey, and has {page.samplesperpixel} channels (fluorescence?)"
        )
    if int(page.planarconfig) not in (1, 2) or int(page.fillorder) not in (1, 2):
        raise DamagedError("its directory says of no known kind how colours are stored")
    if page.imagedepth != 1:
        raise UnsupportedError("it is a volume, not a slide")


def check_vendors_kind(path: Path) -> None:
    """Refuse what a vendor's TIFF says to be no brightfield image, or damaged; OpenSlide goes on.

    Raises:
        UnsupportedError: With what it is.
        DamagedError: If its tables are.
    """
    with faults_of("its directory is damaged: tifffile", OpenError), TiffFile(path) as file:
        if file.is_ndpi:
            _check_filters(file.pages.first)
            return
        for page in file.pages:
            full = page if isinstance(page, TiffPage) else page.aspage()
            if full.is_tiled:
                check_colours(full)
                check_vendors_tables(full)


def _check_filters(page: TiffPage) -> None:
    """Refuse an NDPI that names filters of fluorescence; it is stored as RGB all the same."""
    name = page.tags.get(FILTER_SET)
    text = str(name.value).strip("\0 ") if name is not None else ""
    if text:
        raise UnsupportedError(f"it is fluorescence (filters {text}), not brightfield")


def alpha_of(page: TiffPage) -> Alpha:
    """What a fourth channel is: transparency only as the file says (ExtraSamples of TIFF 6.0)."""
    kind = tuple(page.extrasamples or ())[:1]
    if kind == (EXTRASAMPLE.ASSOCALPHA,):
        return "premultiplied"
    return "straight" if kind == (EXTRASAMPLE.UNASSALPHA,) else "none"
