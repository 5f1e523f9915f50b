"""A picture to judge a tissue mask by: the slide with its tissue outlined."""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from shapely.geometry import LinearRing, Polygon

OUTLINE = (0, 158, 60)
HOLE = (214, 39, 40)
EDGE_PX = 1600
"""Longest edge of the picture, pixels."""
BACKGROUND_SHADE = 0.3
"""How far glass is darkened, so that what was left out is seen at a glance."""


def draw_overlay(
    pixels: npt.NDArray[np.uint8],
    polygons: Sequence[Polygon],
    downsample_x: float,
    downsample_y: float,
) -> bytes:
    """Draw the outlines of tissue (green) and of holes (red) over the slide.

    Args:
        pixels: The slide at low resolution, (H, W, 3) uint8.
        polygons: Tissue in level-0 pixels; what is outside is shaded.
        downsample_x: Level-0 pixels per pixel of `pixels` in x.
        downsample_y: The same in y.

    Returns:
        A JPEG.
    """
    scale = np.array([1 / downsample_x, 1 / downsample_y])

    def points(ring: LinearRing) -> list[tuple[float, float]]:
        return [(x, y) for x, y in np.asarray(ring.coords)[:, :2] * scale]

    inside = Image.new("L", (pixels.shape[1], pixels.shape[0]), 0)
    stencil = ImageDraw.Draw(inside)
    for polygon in polygons:
        stencil.polygon(points(polygon.exterior), fill=255)
        for hole in polygon.interiors:
            stencil.polygon(points(hole), fill=0)
    bright = Image.fromarray(pixels)
    image = Image.composite(bright, bright.point(lambda v: v * (1 - BACKGROUND_SHADE)), inside)
    draw = ImageDraw.Draw(image)
    width = max(2, round(max(image.size) / 500))
    for polygon in polygons:
        draw.line(points(polygon.exterior), fill=OUTLINE, width=width, joint="curve")
        for hole in polygon.interiors:
            draw.line(points(hole), fill=HOLE, width=width, joint="curve")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
