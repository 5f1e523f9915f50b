"""How much of each tile a mask covers, exactly.

Uses the mask's integral image, read off at float positions: the share is that of the tile's true
rectangle, not of the mask pixels that it touches.
"""

import cv2
import numpy as np
import numpy.typing as npt

from slidemill.tiles.grid import Coords, TileGeometry


def mask_fraction(
    mask: npt.NDArray[np.bool_] | npt.NDArray[np.uint8],
    downsample_x: float,
    downsample_y: float,
    coords: Coords,
    geometry: TileGeometry,
) -> npt.NDArray[np.float32]:
    """Share of each tile's area that is set in a mask.

    Args:
        mask: (H, W), 0 or 1.
        downsample_x: Level-0 pixels per mask pixel in x.
        downsample_y: The same in y.
        coords: (N, 2) top-left corners, level-0 pixels.
        geometry: Size of the tiles.

    Returns:
        (N,) float32, 0 to 1. What lies outside the mask counts as not set.
    """
    bits = np.ascontiguousarray(mask, np.uint8)
    if not bits.any():
        return np.zeros(len(coords), np.float32)
    integral = np.asarray(cv2.integral(bits, sdepth=cv2.CV_32S), np.int32)
    corners = coords.astype(np.float64)
    left, top = corners[:, 0] / downsample_x, corners[:, 1] / downsample_y
    right = (corners[:, 0] + geometry.width) / downsample_x
    bottom = (corners[:, 1] + geometry.height) / downsample_y
    covered = (_at(integral, bottom, right) - _at(integral, top, right)) - (
        _at(integral, bottom, left) - _at(integral, top, left)
    )
    area = (right - left) * (bottom - top)
    return np.asarray(np.clip(covered / area, 0.0, 1.0), dtype=np.float32)


def _at(
    integral: npt.NDArray[np.int32], y: npt.NDArray[np.float64], x: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The integral of a piecewise constant image, which is bilinear between its nodes."""
    y = np.clip(y, 0.0, integral.shape[0] - 1.0)
    x = np.clip(x, 0.0, integral.shape[1] - 1.0)
    row = np.minimum(y.astype(np.int64), integral.shape[0] - 2)
    column = np.minimum(x.astype(np.int64), integral.shape[1] - 2)
    part_y, part_x = y - row, x - column
    upper = integral[row, column] * (1 - part_x) + integral[row, column + 1] * part_x
    lower = integral[row + 1, column] * (1 - part_x) + integral[row + 1, column + 1] * part_x
    values: npt.NDArray[np.float64] = upper * (1 - part_y) + lower * part_y
    return values
