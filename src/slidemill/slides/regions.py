"""Reading a region at an exact physical size.

A region is a float rectangle in level-0 pixels and is asked for at a size in pixels. It is read
from the coarsest level that is not coarser than asked, and resampled by area from the exact float
rectangle, so that S um are S um at every pyramid, whatever its downsamples are.
"""

import math
import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slidemill.errors import SlideCode, SlideError
from slidemill.slides.reader import RGB, Slide
from slidemill.slides.resample import SNAP, area_resample, is_whole

MAX_UPSAMPLING = 1.1
"""How much finer than the slide itself a region may be asked for; scanners' 0.5021 um is 0.5."""
MAX_SCRATCH_BYTES = 8 * 2**20
"""Pixels before resampling that a thread keeps the memory of; beyond it, memory is fresh."""

_own = threading.local()


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


def read_region(
    slide: Slide, region: Region, width_px: int, height_px: int, out: RGB | None = None
) -> RGB:
    """Read a region of a slide, resampled by area; safe to call from several threads.

    Args:
        slide: The slide.
        region: What to read; parts outside the slide are white.
        width_px: Width of the result, pixels.
        height_px: Height of the result, pixels.
        out: (height_px, width_px, 3) uint8 to write to; None for a new array.

    Returns:
        RGB pixels, (height_px, width_px, 3); `out` where it was given.

    Raises:
        SlideError: If the slide is too coarse for it (too-coarse) or damaged there (read-error);
            `out` is undefined then.
        ValueError: If `out` is of another shape or type.
    """
    if out is None:
        out = np.empty((height_px, width_px, 3), np.uint8)
    elif out.shape != (height_px, width_px, 3) or out.dtype != np.uint8:
        raise ValueError(f"out is {out.dtype} {out.shape}, not uint8 {(height_px, width_px, 3)}")
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
    if (y1 - y0, x1 - x0) == (height_px, width_px) and is_whole(left, top, right, bottom):
        slide.read_into(level, x0, y0, out)
        return out
    box = (
        max(left - x0, 0.0),
        max(top - y0, 0.0),
        min(right - x0, float(x1 - x0)),
        min(bottom - y0, float(y1 - y0)),
    )
    pixels = _scratch(y1 - y0, x1 - x0)
    slide.read_into(level, x0, y0, pixels)
    area_resample(pixels, box, (width_px, height_px), out)
    return out


def _scratch(height: int, width: int) -> RGB:
    """Memory of this thread for pixels before they are resampled; valid until the next call."""
    size = height * width * 3
    if size > MAX_SCRATCH_BYTES:
        return np.empty((height, width, 3), np.uint8)
    held: npt.NDArray[np.uint8] | None = getattr(_own, "held", None)
    if held is None or held.size < size:
        held = _own.held = np.empty(size, np.uint8)
    return held[:size].reshape(height, width, 3)
