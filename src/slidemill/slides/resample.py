"""Resampling by area from an exact float rectangle.

Each output pixel is the mean of the input over the rectangle that it covers, edges weighted by the
part that is covered. OpenCV does that exactly where the rectangle begins at a whole pixel and is
not enlarged, and is fast; elsewhere libraries take whole-pixel rectangles only or weigh pixels by
their centres, so the integral of the image is read off at the edges, linear in the pixels.
"""

import math

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


def area_resample(
    pixels: Pixels, box: tuple[float, float, float, float], size: tuple[int, int]
) -> Pixels:
    """Resample a rectangle of an image by area.

    Args:
        pixels: (H, W, C) uint8.
        box: Left, top, right and bottom in pixels of the image, floats within it.
        size: Width and height of the result, pixels.

    Returns:
        (height, width, C) uint8, rounded to nearest.
    """
    left, top, right, bottom = box
    width, height = size
    if is_whole(left, top):
        cut = pixels[round(top) :, round(left) :]
        fast = _from_origin(cut, (right - left) / width, (bottom - top) / height, size)
        if fast is not None:
            return fast
    return _from_integral(pixels, box, size)


SNAP = 1e-3
"""Part of a pixel that counts as rounding."""


def is_whole(*edges: float) -> bool:
    """Whether edges lie between pixels, as far as it matters."""
    return all(abs(edge - round(edge)) <= SNAP for edge in edges)


def _from_origin(
    pixels: Pixels, scale_x: float, scale_y: float, size: tuple[int, int]
) -> Pixels | None:
    """Resample from the top-left corner by OpenCV; None where it would not be exact."""
    width, height = size
    if scale_x < 1.0 or scale_y < 1.0:
        return None
    if math.isclose(scale_x, 1.0, rel_tol=1e-12) and math.isclose(scale_y, 1.0, rel_tol=1e-12):
        return np.ascontiguousarray(pixels[:height, :width])
    # A pixel or two more than is needed: OpenCV takes the factors as they are only where it rounds
    # the size itself, and must not round it down.
    wide = min(pixels.shape[1], math.ceil(width * scale_x - SNAP))
    high = min(pixels.shape[0], math.ceil(height * scale_y - SNAP))
    found = cv2.resize(
        pixels[:high, :wide], None, fx=1 / scale_x, fy=1 / scale_y, interpolation=cv2.INTER_AREA
    )
    if found.shape[0] < height or found.shape[1] < width:
        return None
    return np.asarray(found[:height, :width], dtype=np.uint8)


def _from_integral(
    pixels: Pixels, box: tuple[float, float, float, float], size: tuple[int, int]
) -> Pixels:
    """Resample any rectangle: the integral of a step function is bilinear between its nodes."""
    left, top, right, bottom = box
    width, height = size
    y0, part_y = _edges(top, bottom, height, pixels.shape[0])
    x0, part_x = _edges(left, right, width, pixels.shape[1])
    first, last = int(y0[0]), int(x0[0])
    # Sums of less than 2**31 / 255 pixels fit the quick integer integral.
    small = pixels.shape[0] * pixels.shape[1] < 2**31 // 255
    cut = pixels[first:, last:]
    integral = cv2.integral(cut, sdepth=cv2.CV_32S if small else cv2.CV_64F)
    integral = integral.reshape(cut.shape[0] + 1, cut.shape[1] + 1, -1)
    y0, x0 = y0 - first, x0 - last
    part_y, part_x = part_y[:, None, None], part_x[None, :, None]
    rows = integral[y0] * (1.0 - part_y) + integral[y0 + 1] * part_y
    nodes = rows[:, x0] * (1.0 - part_x) + rows[:, x0 + 1] * part_x
    sums = np.diff(np.diff(nodes, axis=0), axis=1)
    area = (right - left) * (bottom - top) / (width * height)
    result: Pixels = np.rint(sums / area).astype(np.uint8)
    return result


def _edges(
    start: float, stop: float, count: int, extent: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Edges of `count` equal intervals of [start, stop]: whole pixel and the part beyond it."""
    edges = np.clip(np.linspace(start, stop, count + 1), 0.0, extent)
    whole = np.minimum(edges.astype(np.int64), extent - 1)
    return whole, edges - whole
