"""A whole slide at low resolution, read in blocks of bounded memory.

Blocks follow how the slide is stored: squares of tiles, or full-width bands of strips. Where a
block does not decode it is cut into smaller ones, so that what is lost is about what is damaged;
the rest of the slide is kept.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt

from slidemill.errors import SlideCode, SlideError
from slidemill.slides.reader import RGB, Slide
from slidemill.slides.regions import Region, read_region

MAX_BLOCK_PX = 1536 * 1536
"""Pixels of the level that a thread reads at once; 7 MB of RGB."""
MIN_LOST_PX = 128
"""Blocks of this many pixels of the level are not cut further where they do not decode."""
QUALITY = 88
"""Of JPEGs for people."""
MAX_UNREADABLE = 0.5
"""A slide of which more does not decode has failed."""
MAX_OVERVIEW_PX = 400_000_000
"""Pixels of the largest overview, 1.2 GB; beyond it the file's dimensions are absurd."""

Block = tuple[int, int, int, int]
"""Left, top, width and height in pixels of the overview."""


@dataclass(frozen=True)
class Overview:
    """A slide at low resolution.

    Attributes:
        pixels: RGB, (H, W, 3); the last row and column may reach beyond the slide, and are white
            there, as is what does not decode.
        unreadable: (H, W) bool, what does not decode.
    """

    pixels: RGB
    unreadable: npt.NDArray[np.bool_]


def read_overview(
    slide: Slide, downsample_x: float, downsample_y: float, threads: int = 1
) -> Overview:
    """Read the slide resampled by area.

    Args:
        slide: The slide.
        downsample_x: Level-0 pixels per pixel of the result in x.
        downsample_y: The same in y.
        threads: Threads that read.

    Raises:
        SlideError: If most of the slide is damaged (read-error), or it is too coarse (too-coarse),
            or its dimensions are absurd (unreadable).
    """
    columns = max(1, math.ceil(slide.dimensions[0] / downsample_x - 1e-6))
    rows = max(1, math.ceil(slide.dimensions[1] / downsample_y - 1e-6))
    if columns * rows > MAX_OVERVIEW_PX:
        raise SlideError(
            SlideCode.UNREADABLE,
            f"{slide.path}: {slide.dimensions[0]} x {slide.dimensions[1]} px are more than a slide "
            "has; copy it again, fix its mpp in the sheet, or leave it out",
        )
    found = Overview(
        np.full((rows, columns, 3), 255, np.uint8), np.zeros((rows, columns), np.bool_)
    )
    level = slide.best_level(min(downsample_x, downsample_y))
    scale = slide.level_downsamples[level] / max(downsample_x, downsample_y)
    fill = partial(_fill, slide, found, downsample=(downsample_x, downsample_y), scale=scale)
    x, y, width, height = slide.bounds
    left, top = x / downsample_x, y / downsample_y
    right, bottom = left + width / downsample_x, top + height / downsample_y
    blocks = [
        block
        for block in _blocks(slide, level, columns, rows, scale)
        # What was not scanned is white without being read.
        if block[0] < right and block[1] < bottom
        if block[0] + block[2] > left and block[1] + block[3] > top
    ]
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        faults = [fault for fault in pool.map(fill, blocks) if fault is not None]
    reason = faults[0] if faults else None
    lost = float(found.unreadable.mean())
    if reason is not None and lost > MAX_UNREADABLE:
        raise SlideError(
            reason.code, f"{lost:.0%} of the slide does not decode; first of it: {reason.message}"
        )
    return found


@dataclass(frozen=True)
class Picture:
    """The scanned part of a slide at low resolution, for people.

    Attributes:
        pixels: RGB, (H, W, 3) uint8.
        scale: Level-0 pixels per pixel of it.
        corner: Its corner, level-0 pixels of the canvas.
    """

    pixels: RGB
    scale: float
    corner: tuple[float, float]


def read_picture(slide: Slide, longest_px: int, threads: int = 1) -> Picture:
    """Read the scanned part of a slide so that its longest edge has so many pixels at most.

    Raises:
        SlideError: See `read_overview`.
    """
    scale = max(1.0, max(slide.bounds[2:]) / longest_px)
    pixels, corner = scanned_part(
        slide, read_overview(slide, scale, scale, threads).pixels, (scale, scale)
    )
    return Picture(pixels, scale, corner)


def scanned_part(
    slide: Slide, pixels: npt.NDArray[np.uint8], scale: tuple[float, float]
) -> tuple[npt.NDArray[np.uint8], tuple[float, float]]:
    """The scanned part of a picture of the canvas, and its corner.

    Args:
        slide: The slide.
        pixels: A picture or a class map of its whole canvas, (H, W, ...).
        scale: Level-0 pixels per pixel of it, in x and y.

    Returns:
        A view of the part, and its corner in level-0 pixels of the canvas.
    """
    x, y, width, height = slide.bounds
    left, top = math.floor(x / scale[0]), math.floor(y / scale[1])
    right, bottom = math.ceil((x + width) / scale[0]), math.ceil((y + height) / scale[1])
    return pixels[top:bottom, left:right], (left * scale[0], top * scale[1])


def jpeg_of(pixels: RGB) -> bytes:
    """A picture as a JPEG.

    Args:
        pixels: (H, W, 3) uint8.
    """
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    )
    if not done:
        raise ValueError(f"no JPEG can be made of a picture of shape {pixels.shape}")
    return data.tobytes()


def _blocks(slide: Slide, level: int, columns: int, rows: int, scale: float) -> Iterator[Block]:
    segment = slide.segments[level]
    is_striped = segment is not None and segment[0] >= slide.level_dimensions[level][0]
    edge = math.isqrt(MAX_BLOCK_PX)
    width = columns if is_striped else max(1, math.floor(edge * scale))
    height = max(1, math.floor(MAX_BLOCK_PX * scale**2 / width)) if is_striped else width
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            yield left, top, min(width, columns - left), min(height, rows - top)


def _fill(
    slide: Slide, found: Overview, block: Block, *, downsample: tuple[float, float], scale: float
) -> SlideError | None:
    """Read one block into the overview; the fault of what does not decode, or None."""
    left, top, width, height = block
    region = Region(
        left * downsample[0], top * downsample[1], width * downsample[0], height * downsample[1]
    )
    place = np.s_[top : top + height, left : left + width]
    try:
        found.pixels[place] = read_region(slide, region, width, height)
    except SlideError as error:
        if error.code is not SlideCode.READ_ERROR:
            raise
        if max(width, height) == 1 or max(width, height) / scale <= MIN_LOST_PX:
            found.unreadable[place] = True
            return error
        parts = [(left + x, top + y, w, h) for y, h in _halves(height) for x, w in _halves(width)]
        faults = [_fill(slide, found, part, downsample=downsample, scale=scale) for part in parts]
        return next((fault for fault in faults if fault is not None), None)
    return None


def _halves(size: int) -> list[tuple[int, int]]:
    """Start and length of the halves of a range."""
    half = (size + 1) // 2
    return [(0, half), (half, size - half)] if size > 1 else [(0, 1)]
