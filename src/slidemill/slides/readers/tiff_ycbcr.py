"""Luma and chroma that no codec converts, as red, green and blue (TIFF 6.0, section 21)."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from tifffile import COMPRESSION, PHOTOMETRIC, TiffPage

from slidemill.slides.readers.base import DamagedError, UnsupportedError

_CONVERTING = {
    COMPRESSION.JPEG,
    COMPRESSION.JPEG2000,
    COMPRESSION.WEBP,
    COMPRESSION.JPEGXL,
}
"""Codecs whose streams convert their colours to RGB."""
_ALWAYS = COMPRESSION.APERIO_JP2000_YCBC
"""Aperio's JPEG 2000 of luma and chroma, whatever the directory says of its colours."""
BT_601 = (0.299, 0.587, 0.114)
"""YCbCrCoefficients without the tag: the shares of red, green and blue in luma."""
FULL_RANGE = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)
"""ReferenceBlackWhite without the tag: luma and chroma over all of 0 to 255."""
CODING = (255.0, 127.0, 127.0)
"""Steps from the black to the white reference of luma and chroma, in full range."""


@dataclass(frozen=True)
class YCbCr:
    """How colours are converted.

    Attributes:
        shares: Of red, green and blue in luma.
        scale: Codes of black and white, of luma and both chroma.
    """

    shares: tuple[float, ...] = BT_601
    scale: tuple[float, ...] = FULL_RANGE

    def rgb_of(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Convert pixels.

        Args:
            pixels: (height, width, 3): luma, blue and red chroma.
        """
        if np.allclose(self.shares, BT_601, atol=5e-4) and self.scale == FULL_RANGE:
            ordered = np.ascontiguousarray(pixels[..., [0, 2, 1]])
            return np.asarray(cv2.cvtColor(ordered, cv2.COLOR_YCrCb2RGB), np.uint8)
        black = np.array(self.scale[::2], np.float32)
        white = np.array(self.scale[1::2], np.float32)
        full = (pixels - black) * (np.array(CODING, np.float32) / (white - black))
        luma, blue, red = full[..., 0], full[..., 1], full[..., 2]
        of_red, of_green, of_blue = self.shares
        out = np.empty(pixels.shape, np.float32)
        out[..., 0] = luma + red * (2 - 2 * of_red)
        out[..., 2] = luma + blue * (2 - 2 * of_blue)
        out[..., 1] = (luma - of_blue * out[..., 2] - of_red * out[..., 0]) / of_green
        return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def ycbcr_of(page: TiffPage) -> YCbCr | None:
    """How the colours of a directory's pieces are converted; None where they are not to be.

    Raises:
        UnsupportedError: If chroma is stored more coarsely than luma.
        DamagedError: If the directory has no sound numbers for it.
    """
    if page.compression == _ALWAYS:
        return YCbCr() if page.samplesperpixel == 3 else None
    if page.photometric != PHOTOMETRIC.YCBCR or page.compression in _CONVERTING:
        return None
    sampling = page.tags.get("YCbCrSubSampling")
    # TIFF 6.0: without the tag chroma is halved in both directions.
    if sampling is None or tuple(sampling.value) != (1, 1):
        raise UnsupportedError("its colours are YCbCr with coarser chroma and no JPEG")
    found = YCbCr(
        _rationals(page, "YCbCrCoefficients", BT_601),
        _rationals(page, "ReferenceBlackWhite", FULL_RANGE),
    )
    spans = [
        white - black for black, white in zip(found.scale[::2], found.scale[1::2], strict=True)
    ]
    if min(spans) <= 0 or min(found.shares) <= 0 or abs(sum(found.shares) - 1) > 0.01:
        raise DamagedError("its directory has no sound numbers for YCbCr")
    return found


def _rationals(page: TiffPage, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
    """A tag of fractions, which tifffile gives as a row of numerators and denominators."""
    tag = page.tags.get(name)
    if tag is None:
        return default
    values = tuple(tag.value)
    if len(values) == len(default):  # stored as whole numbers or floats
        return tuple(float(value) for value in values)
    pairs = list(zip(values[::2], values[1::2], strict=True))
    if len(pairs) != len(default) or not all(below for _, below in pairs):
        raise DamagedError(f"its {name} is damaged")
    return tuple(above / below for above, below in pairs)
