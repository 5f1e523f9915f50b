"""Resampling by area from an exact float rectangle.

Each output pixel is the mean of the input over the rectangle that it covers, edges weighted by the
part that is covered. Libraries either take whole-pixel rectangles only or weigh pixels by their
centres, which at downsamples near 1 is nearest-neighbour; this is linear in the number of pixels.
"""

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
    rows = _mean_along(pixels, top, bottom, height)
    columns = _mean_along(rows.transpose(1, 0, 2), left, right, width)
    result: Pixels = np.rint(columns.transpose(1, 0, 2)).astype(np.uint8)
    return result


def _mean_along(
    values: npt.NDArray[np.uint8] | npt.NDArray[np.float64], start: float, stop: float, count: int
) -> npt.NDArray[np.float64]:
    """Means over `count` equal intervals of [start, stop] along the first axis."""
    edges = np.clip(np.linspace(start, stop, count + 1), 0.0, values.shape[0])
    whole = np.minimum(edges.astype(np.int64), values.shape[0] - 1)
    part = (edges - whole).reshape(-1, *[1] * (values.ndim - 1))
    # The integral of a step function, read off at the edges: exact for pixels of uniform colour.
    kind = np.int32 if values.dtype == np.uint8 else np.float64
    before = np.cumsum(values, axis=0, dtype=kind)
    at_edges = before[whole] - values[whole] + part * values[whole]
    means: npt.NDArray[np.float64] = np.diff(at_edges, axis=0) * (count / (stop - start))
    return means
