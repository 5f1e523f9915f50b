"""A whole slide at low resolution, read in blocks of bounded memory."""

import math

import numpy as np

from slidemill.slides.reader import RGB, Slide
from slidemill.slides.regions import Region, read_region

MAX_BLOCK_EDGE = 4096
"""Longest edge of a block as it is read, in pixels of the level read; 50 MB of RGB."""


def read_overview(slide: Slide, downsample_x: float, downsample_y: float) -> RGB:
    """Read the slide resampled by area.

    A slide without a pyramid is read in blocks, so that memory stays bounded.

    Args:
        slide: The slide.
        downsample_x: Level-0 pixels per pixel of the result in x.
        downsample_y: The same in y.

    Returns:
        RGB pixels; the last row and column may reach beyond the slide, and are white there.

    Raises:
        SlideError: If the slide is damaged or too coarse.
    """
    columns = max(1, math.ceil(slide.dimensions[0] / downsample_x - 1e-6))
    rows = max(1, math.ceil(slide.dimensions[1] / downsample_y - 1e-6))
    level = slide.best_level(min(downsample_x, downsample_y))
    scale = slide.level_downsamples[level] / max(downsample_x, downsample_y)
    block = max(1, math.floor(MAX_BLOCK_EDGE * scale))
    result = np.empty((rows, columns, 3), dtype=np.uint8)
    for top in range(0, rows, block):
        for left in range(0, columns, block):
            height, width = min(block, rows - top), min(block, columns - left)
            region = Region(
                left * downsample_x, top * downsample_y, width * downsample_x, height * downsample_y
            )
            result[top : top + height, left : left + width] = read_region(
                slide, region, width, height
            )
    return result
