"""How much of each tile a mask covers, exactly.

Uses the mask's integral image, read off at float positions: the share is that of the tile's true
rectangle, not of the mask pixels that it touches.
"""

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

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
    integral = np.pad(mask.astype(np.float64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    left = coords[:, 0] / downsample_x
    top = coords[:, 1] / downsample_y
    right = (coords[:, 0] + geometry.width) / downsample_x
    bottom = (coords[:, 1] + geometry.height) / downsample_y

    def at(y: npt.NDArray[np.floating], x: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        # The integral of a piecewise constant image is bilinear between its nodes.
        values: npt.NDArray[np.float64] = map_coordinates(integral, [y, x], order=1, mode="nearest")
        return values

    covered = (at(bottom, right) - at(top, right)) - (at(bottom, left) - at(top, left))
    area = (right - left) * (bottom - top)
    return np.asarray(np.clip(covered / area, 0.0, 1.0), dtype=np.float32)
