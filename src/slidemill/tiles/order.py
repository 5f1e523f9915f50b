"""The order in which tiles are read: blocks of neighbours, so that what they share is decoded once.

Knows coordinates only.
"""

import numpy as np
import numpy.typing as npt

from slidemill.tiles.grid import Coords, TileGeometry

Int64Array = npt.NDArray[np.int64]


def reading_order(
    coords: Coords, geometry: TileGeometry, across: int, down: int
) -> tuple[Int64Array, Int64Array]:
    """Numbers of tiles, block by block, row-major within a block and over the blocks.

    Args:
        coords: (N, 2) top-left corners, level-0 pixels.
        geometry: Size of the tiles.
        across: Tiles along the width of a block.
        down: Tiles along the height of a block.

    Returns:
        (N,) int64 numbers of tiles, and (B,) int64 positions in them at which blocks begin.
    """
    step = np.array([geometry.step_x * across, geometry.step_y * down])
    column, row = (coords // step).astype(np.int64).T
    order = np.lexsort((coords[:, 0], coords[:, 1], column, row)).astype(np.int64)
    if not len(order):
        return order, np.zeros(0, np.int64)
    changes = (np.diff(column[order]) != 0) | (np.diff(row[order]) != 0)
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1]).astype(np.int64)
    return order, starts
