"""Resampling by area from an exact float rectangle.

Each output pixel is the mean of the input over the rectangle that it covers, edges weighted by the
part that is covered. OpenCV does that exactly where the rectangle begins at a whole pixel and is
not enlarged, and is fast; elsewhere libraries take whole-pixel rectangles only or weigh pixels by
their centres, so the weights are worked out here, linear in the pixels.
"""

import math

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


def area_resample(
    pixels: Pixels,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    out: Pixels | None = None,
) -> Pixels:
    """Resample a rectangle of an image by area.

    Args:
        pixels: (H, W, C) uint8.
        box: Left, top, right and bottom in pixels of the image, floats within it.
        size: Width and height of the result, pixels.
        out: (height, width, C) uint8 to write to, which shares no memory with `pixels`; None for a
            new array.

    Returns:
        (height, width, C) uint8, rounded to nearest; `out` where it was given.
    """
    left, top, right, bottom = box
    width, height = size
    if out is None:
        out = np.empty((height, width, pixels.shape[2]), np.uint8)
    if is_whole(left, top):
        cut = pixels[round(top) :, round(left) :]
        if _from_origin(cut, (right - left) / width, (bottom - top) / height, out):
            return out
    _by_weights(pixels, box, out)
    return out


SNAP = 1e-3
"""Part of a pixel that counts as rounding."""


def is_whole(*edges: float) -> bool:
    """Whether edges lie between pixels, as far as it matters."""
    return all(abs(edge - round(edge)) <= SNAP for edge in edges)


def _from_origin(pixels: Pixels, scale_x: float, scale_y: float, out: Pixels) -> bool:
    """Resample from the top-left corner by OpenCV; False where it would not be exact."""
    height, width = out.shape[:2]
    if scale_x < 1.0 or scale_y < 1.0:
        return False
    if math.isclose(scale_x, 1.0, rel_tol=1e-12) and math.isclose(scale_y, 1.0, rel_tol=1e-12):
        out[...] = pixels[:height, :width]
        return True
    # A pixel or two more than is needed: OpenCV takes the factors as they are only where it rounds
    # the size itself, and must not round it down.
    wide = min(pixels.shape[1], math.ceil(width * scale_x - SNAP))
    high = min(pixels.shape[0], math.ceil(height * scale_y - SNAP))
    found = cv2.resize(
        pixels[:high, :wide],
        None,
        # OpenCV writes to it where the size that it rounds to is this one, else to new memory.
        dst=out if out.flags.c_contiguous else None,
        fx=1 / scale_x,
        fy=1 / scale_y,
        interpolation=cv2.INTER_AREA,
    )
    if found.shape[0] < height or found.shape[1] < width:
        return False
    if found is not out:
        out[...] = found[:height, :width]
    return True


def _by_weights(pixels: Pixels, box: tuple[float, float, float, float], out: Pixels) -> None:
    """Resample any rectangle: first along y, then along x."""
    left, top, right, bottom = box
    height, width = out.shape[:2]
    rows = _mean_along(pixels, top, bottom, height)
    columns = _mean_along(np.ascontiguousarray(rows.transpose(1, 0, 2)), left, right, width)
    out[...] = np.rint(columns.transpose(1, 0, 2))


def _mean_along(
    values: npt.NDArray[np.uint8] | npt.NDArray[np.float32], start: float, stop: float, count: int
) -> npt.NDArray[np.float32]:
    """Means over `count` equal intervals of [start, stop] along the first axis.

    Every interval covers the same few pixels at most, each by a part of it that is its weight.
    """
    extent = values.shape[0]
    edges = np.clip(np.linspace(start, stop, count + 1), 0.0, extent)
    begin, end = edges[:-1], edges[1:]
    first = np.minimum(begin.astype(np.int64), extent - 1)
    taps = int((np.ceil(end).astype(np.int64) - first).max())
    step = (stop - start) / count
    means = np.zeros((count, *values.shape[1:]), np.float32)
    for tap in range(taps):
        at = first + tap
        covered = np.clip(np.minimum(at + 1, end) - np.maximum(at, begin), 0.0, 1.0) / step
        weight = covered.astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
        means += weight * values[np.minimum(at, extent - 1)]
    return means
