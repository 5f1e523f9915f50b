"""A picture to judge a tissue mask by: the slide with its tissue outlined.

Reads and writes no file: arrays and polygons in, the bytes of a JPEG out.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from shapely.geometry import LinearRing, Polygon

from slidemill.slides.overview import jpeg_of
from slidemill.tissue.classes import TissueClass

OUTLINE = (0, 158, 60)
HOLE = (214, 39, 40)
TINTS = {
    TissueClass.PEN: (148, 60, 190),
    TissueClass.BLACK: (31, 119, 180),
    TissueClass.OTHER: (255, 152, 0),
    TissueClass.UNREADABLE: (110, 110, 110),
}
"""Colour of what was excluded, RGB."""
TINT = 0.45
"""Share of the tint's colour in a tinted pixel."""
EDGE_PX = 1600
"""Longest edge of the picture, pixels."""
BACKGROUND_SHADE = 0.3
"""How far glass is darkened, so that what was left out is seen at a glance."""
_SHIFT = 4  # vertices are drawn to a sixteenth of a pixel

Pixels = npt.NDArray[np.uint8]


def draw_overlay(
    pixels: Pixels,
    polygons: Sequence[Polygon],
    downsample_x: float,
    downsample_y: float,
    classes: npt.NDArray[np.uint8] | None = None,
) -> bytes:
    """Draw the outlines of tissue (green) and of holes (red) over the slide.

    Args:
        pixels: The slide at low resolution, (H, W, 3) uint8.
        polygons: Tissue in level-0 pixels; what is outside is shaded.
        downsample_x: Level-0 pixels per pixel of `pixels` in x.
        downsample_y: The same in y.
        classes: Class map of the whole slide at any resolution, (h, w) uint8: ink, borders,
            artefacts and unreadable areas are tinted (`TINTS`).

    Returns:
        A JPEG.
    """
    scale = np.array([1 / downsample_x, 1 / downsample_y])

    def points(ring: LinearRing) -> npt.NDArray[np.int32]:
        # Polygons have pixels' corners at whole numbers, OpenCV has their centres there.
        xy = np.asarray(ring.coords)[:-1, :2] * scale - 0.5
        return np.asarray(np.rint(xy * (1 << _SHIFT)), np.int32)

    shells = [points(polygon.exterior) for polygon in polygons]
    holes = [points(hole) for polygon in polygons for hole in polygon.interiors]
    inside = np.zeros(pixels.shape[:2], np.uint8)
    for polygon, shell in zip(polygons, shells, strict=True):
        rings = [shell, *(points(hole) for hole in polygon.interiors)]
        cv2.fillPoly(inside, rings, 255, shift=_SHIFT)  # even-odd: holes stay out
    shade = np.rint(np.arange(256) * (1 - BACKGROUND_SHADE)).astype(np.uint8)
    image = np.asarray(cv2.LUT(pixels, shade), np.uint8)
    if classes is not None:
        _tint(image, classes)
    cv2.copyTo(pixels, inside, image)
    width = max(2, round(max(pixels.shape[:2]) / 600))
    for rings, colour in ((shells, OUTLINE), (holes, HOLE)):
        cv2.polylines(image, rings, True, colour, width, cv2.LINE_AA, _SHIFT)
    return jpeg_of(image)


def _tint(image: Pixels, classes: npt.NDArray[np.uint8]) -> None:
    """Lay the colours of excluded classes over an RGB image, in place."""
    present = [kind for kind in TINTS if (classes == kind).any()]
    if not present:
        return
    size = (image.shape[1], image.shape[0])
    fitted = cv2.resize(classes, size, interpolation=cv2.INTER_NEAREST)
    for kind in present:
        where = (np.asarray(fitted) == kind).view(np.uint8)
        x, y, w, h = cv2.boundingRect(where)
        part = image[y : y + h, x : x + w]
        ink = np.full_like(part, TINTS[kind])
        mixed = cv2.addWeighted(part, 1 - TINT, ink, TINT, 0)
        cv2.copyTo(mixed, where[y : y + h, x : x + w], part)
