"""Reading a region at an exact physical size.

A region is a float rectangle in level-0 pixels and is asked for at a size in pixels. It is read
from the coarsest level that is not coarser than asked, and resampled by area from the exact float
rectangle, so that S um are S um at every pyramid, whatever its downsamples are.
"""

import math
from dataclasses import dataclass

from slidemill.errors import SlideCode, SlideError
from slidemill.slides.reader import RGB, Slide
from slidemill.slides.resample import SNAP, area_resample, is_whole

MAX_UPSAMPLING = 1.1
"""How much finer than the slide itself a region may be asked for; scanners' 0.5021 um is 0.5."""


@dataclass(frozen=True)
class Region:
    """A rectangle in level-0 pixels.

    Attributes:
        x: Left edge.
        y: Top edge.
        width: Width; a float, since physical sizes are no whole numbers of pixels.
        height: Height.
    """

    x: float
    y: float
    width: float
    height: float


def read_region(slide: Slide, region: Region, width_px: int, height_px: int) -> RGB:
    """Read a region of a slide, resampled by area.

    Args:
        slide: The slide.
        region: What to read; parts outside the slide are white.
        width_px: Width of the result, pixels.
        height_px: Height of the result, pixels.

    Returns:
        RGB pixels, (height_px, width_px, 3).

    Raises:
        SlideError: If the slide is too coarse for it (too-coarse) or damaged there (read-error).
    """
    downsample = min(region.width / width_px, region.height / height_px)
    if downsample * MAX_UPSAMPLING < 1.0:
        raise SlideError(
            SlideCode.TOO_COARSE,
            f"{slide.path}: its finest level is {1 / downsample:.2f} times coarser than asked; "
            "choose a larger tiles.mpp for this cohort or leave the slide out",
        )
    level = slide.best_level(downsample)
    scale = slide.level_downsamples[level]
    left, top = region.x / scale, region.y / scale
    right, bottom = left + region.width / scale, top + region.height / scale
    x0, y0 = math.floor(left + SNAP), math.floor(top + SNAP)
    x1, y1 = math.ceil(right - SNAP), math.ceil(bottom - SNAP)
    pixels = slide.read(level, x0, y0, x1 - x0, y1 - y0)
    if pixels.shape[:2] == (height_px, width_px) and is_whole(left, top, right, bottom):
        return pixels
    box = (
        max(left - x0, 0.0),
        max(top - y0, 0.0),
        min(right - x0, float(x1 - x0)),
        min(bottom - y0, float(y1 - y0)),
    )
    return area_resample(pixels, box, (width_px, height_px))
