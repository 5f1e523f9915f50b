"""The picture of a slide that the tissue stage leaves: its scanned part, with what was found.

Reads the slide again where the overview is too small to judge by; writes nothing.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from shapely.affinity import translate
from shapely.geometry import Polygon

from slidemill.slides.overview import read_overview
from slidemill.slides.reader import RGB, Slide
from slidemill.tissue.overlay import EDGE_PX, draw_overlay

MIN_PICTURE_PX = 800
"""Longest edge below which an overview is too small to judge; the slide is read again, finer."""


def picture_of(
    slide: Slide,
    overview: RGB,
    downsample: tuple[float, float],
    polygons: Sequence[Polygon],
    classes: npt.NDArray[np.uint8],
    threads: int,
) -> bytes:
    """Draw what was found over the scanned part of a slide.

    Args:
        slide: The slide.
        overview: The whole canvas, (H, W, 3) uint8.
        downsample: Level-0 pixels per pixel of it, in x and y.
        polygons: Tissue, level-0 pixels of the canvas.
        classes: Classes of the overview's pixels, (H, W) uint8.
        threads: Threads that read.

    Returns:
        A JPEG.
    """
    seen, corner = _scanned(slide, overview, downsample)
    classes, _ = _scanned(slide, classes, downsample)
    scale = downsample
    longest = max(seen.shape[:2])
    if longest < MIN_PICTURE_PX:
        edge = max(1.0, max(slide.bounds[2:]) / EDGE_PX)
        scale = edge, edge
        seen, corner = _scanned(slide, read_overview(slide, *scale, threads).pixels, scale)
    elif longest > EDGE_PX:
        factor = EDGE_PX / longest
        smaller = cv2.resize(seen, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        seen = np.asarray(smaller, np.uint8)
        scale = downsample[0] / factor, downsample[1] / factor
    placed = [translate(polygon, -corner[0], -corner[1]) for polygon in polygons]
    return draw_overlay(np.ascontiguousarray(seen), placed, *scale, classes=classes)


def _scanned(
    slide: Slide, pixels: npt.NDArray[np.uint8], scale: tuple[float, float]
) -> tuple[npt.NDArray[np.uint8], tuple[float, float]]:
    """The scanned part of a picture of the canvas, and its corner in level-0 pixels."""
    x, y, width, height = slide.bounds
    left, top = math.floor(x / scale[0]), math.floor(y / scale[1])
    right, bottom = math.ceil((x + width) / scale[0]), math.ceil((y + height) / scale[1])
    return pixels[top:bottom, left:right], (left * scale[0], top * scale[1])
