"""The picture of a slide that the tissue stage leaves: its scanned part, with what was found.

Reads the slide again where the overview is too small to judge by; writes nothing.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from shapely.affinity import translate
from shapely.geometry import Polygon

from slidemill.slides.overview import read_picture, scanned_part
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
    seen, corner = scanned_part(slide, overview, downsample)
    classes, _ = scanned_part(slide, classes, downsample)
    scale = downsample
    longest = max(seen.shape[:2])
    if longest < MIN_PICTURE_PX:
        finer = read_picture(slide, EDGE_PX, threads)
        seen, scale, corner = finer.pixels, (finer.scale, finer.scale), finer.corner
    elif longest > EDGE_PX:
        factor = EDGE_PX / longest
        smaller = cv2.resize(seen, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        seen = np.asarray(smaller, np.uint8)
        scale = downsample[0] / factor, downsample[1] / factor
    placed = [translate(polygon, -corner[0], -corner[1]) for polygon in polygons]
    return draw_overlay(np.ascontiguousarray(seen), placed, *scale, classes=classes)
