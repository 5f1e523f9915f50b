"""The simplest encoder: the mean colour of a tile.

It needs no weights and serves as a control: what it can tell apart, staining can.
"""

import numpy as np
import numpy.typing as npt


def encode(tiles: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Mean red, green and blue of each tile.

    Args:
        tiles: RGB, (N, T, T, 3) uint8.

    Returns:
        (N, 3) float32, 0 to 255.
    """
    means: npt.NDArray[np.float32] = tiles.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)
    return means
