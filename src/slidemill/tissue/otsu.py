"""Tissue by Otsu's threshold on saturation, with morphological clean-up.

Numerics only: arrays in, arrays out. Stained tissue is coloured and glass is grey, so saturation
parts them at any brightness of the lamp. Otsu (1979) finds a threshold in anything, also in the
noise of bare glass; a floor keeps it above what glass and its JPEG noise reach.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.color import rgb2hsv
from skimage.filters import threshold_otsu
from skimage.morphology import disk, remove_small_holes, remove_small_objects

Mask = npt.NDArray[np.bool_]

MIN_SATURATION = 0.06
"""Floor of the threshold: bare glass stays below it."""
MAX_SATURATION = 0.5
"""Ceiling of the threshold and of the values that Otsu sees: ink must not set the threshold."""
MIN_VALUE = 0.15
"""Darker pixels are borders or ink; their saturation means nothing."""
SMOOTHING_UM = 16.0
"""Edge of the median filter that removes dust and JPEG noise."""
INK_VALUE = 0.3
"""Larger areas darker than this are black ink; stained nuclei are brighter at this resolution."""
MIN_INK_MM2 = 0.02
"""Smaller specks of ink's colour are stain or debris within tissue."""
CLOSING_UM = 24.0
"""Radius of the closing that joins fibres and cells to pieces of tissue."""


@dataclass(frozen=True)
class Tissue:
    """Tissue of an image.

    Attributes:
        mask: (H, W) bool.
        threshold: Saturation that parted tissue from glass, 0 to 1.
        pieces: Number of connected pieces.
    """

    mask: Mask
    threshold: float
    pieces: int


def find_tissue(
    pixels: npt.NDArray[np.uint8], mpp: float, min_area_mm2: float, min_hole_mm2: float
) -> Tissue:
    """Find tissue in a low-resolution image of a slide.

    Args:
        pixels: RGB, (H, W, 3) uint8.
        mpp: um per pixel.
        min_area_mm2: Smaller pieces are dropped, square mm.
        min_hole_mm2: Smaller holes are filled, square mm.

    Returns:
        The tissue; its mask is empty where there is none.
    """
    hsv = rgb2hsv(pixels)
    size = _odd(SMOOTHING_UM / mpp)
    saturation = ndimage.median_filter(hsv[..., 1].astype(np.float32), size=size)
    ink = is_ink(hsv, mpp)
    usable = (hsv[..., 2] > MIN_VALUE) & ~ink
    threshold = saturation_threshold(saturation[usable])
    coarse = (saturation > threshold) & usable
    # Closing beyond the border would see background there and pull the tissue off it.
    radius = max(1, round(CLOSING_UM / mpp))
    padded = np.pad(coarse, radius, mode="edge")
    closed = ndimage.binary_closing(padded, disk(radius))[radius:-radius, radius:-radius]
    mask = remove_small_objects(closed, max_size=_pixels(min_area_mm2, mpp))
    mask = remove_small_holes(mask, max_size=_pixels(min_hole_mm2, mpp))
    mask &= ~ink
    mask = remove_small_objects(mask, max_size=_pixels(min_area_mm2, mpp))
    _, pieces = ndimage.label(mask)
    return Tissue(mask, float(threshold), int(pieces))


def saturation_threshold(saturation: npt.NDArray[np.float32]) -> float:
    """Otsu's threshold on saturation, kept within `MIN_SATURATION` and `MAX_SATURATION`."""
    values = np.minimum(saturation, MAX_SATURATION)
    if values.size == 0 or values.min() == values.max():
        return MIN_SATURATION
    return float(np.clip(threshold_otsu(values), MIN_SATURATION, MAX_SATURATION))


def is_ink(hsv: npt.NDArray[np.float64], mpp: float) -> Mask:
    """Pen strokes: areas of a colour that no H&E or DAB stain has (green, blue), or black.

    Haematoxylin is bluish purple (hue 0.65 and above where it is strong), eosin pink, DAB brown
    (hue about 0.07); between 0.22 and 0.63 lie green, cyan and pure blue.
    """
    hue, saturation = hsv[..., 0], hsv[..., 1]
    coloured = (hue > 0.22) & (hue < 0.63) & (saturation > 0.25)
    coloured = remove_small_objects(coloured, max_size=_pixels(MIN_INK_MM2, mpp))
    black = remove_small_objects(hsv[..., 2] < INK_VALUE, max_size=_pixels(MIN_INK_MM2, mpp))
    # A stroke's rim is ink mixed with glass.
    rim = ndimage.binary_dilation(coloured, iterations=2) & (saturation > 0.1)
    strokes: Mask = coloured | rim | ndimage.binary_dilation(black, iterations=2)
    return strokes


def _odd(pixels: float) -> int:
    return max(1, 2 * round(pixels / 2) + 1)


def _pixels(area_mm2: float, mpp: float) -> int:
    return int(area_mm2 * 1e6 / mpp**2)
