"""The simplest encoder: the mean colour of a tile.

It needs no weights and serves as a control: what it can tell apart, staining can.
"""

import cv2
import numpy as np
import numpy.typing as npt


def encode(tiles: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Mean red, green and blue of each tile.

    Args:
        tiles: RGB, (N, T, T, 3) uint8.

    Returns:
        (N, 3) float32, 0 to 255.
    """
    # OpenCV adds whole numbers, many at once: exact, and twenty times as fast as numpy's mean.
    means = [cv2.mean(np.ascontiguousarray(tile))[:3] for tile in tiles]
    return np.array(means, np.float32).reshape(len(tiles), 3)
