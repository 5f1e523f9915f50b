"""What the pixels of a tile say of its quality: white, black, focus.

Numerics only. White and black are shares of pixels all of whose channels are beyond a fixed value;
focus is the variance of the Laplacian (Pech-Pacheco et al., 2000, Diatom autofocusing in
brightfield microscopy), which sharp nuclei raise and blur lowers. All are measured at the tile's
own resolution, so they compare between slides of one tiling and not between tilings.
"""

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

WHITE_ABOVE = 220
"""A pixel all of whose channels are brighter is white."""
BLACK_BELOW = 40
"""A pixel all of whose channels are darker is black."""


class Quality(NamedTuple):
    """Quality of one tile.

    Attributes:
        white: Share of white pixels, 0 to 1.
        black: Share of black pixels, 0 to 1.
        focus: Variance of the Laplacian of the grey values (0 to 255).
    """

    white: float
    black: float
    focus: float


def measure(tile: npt.NDArray[np.uint8]) -> Quality:
    """Measure a tile.

    Args:
        tile: RGB, (tile_px, tile_px, 3) uint8.
    """
    size = tile.shape[0] * tile.shape[1]
    white = cv2.countNonZero(cv2.inRange(tile, _LIGHT, _MOST))
    black = cv2.countNonZero(cv2.inRange(tile, _LEAST, _DARK))
    grey = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY)
    _, deviation = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    return Quality(white / size, black / size, float(deviation[0, 0]) ** 2)


_LEAST = np.zeros(3, np.uint8)
_DARK = np.full(3, BLACK_BELOW - 1, np.uint8)
_LIGHT = np.full(3, WHITE_ABOVE + 1, np.uint8)
_MOST = np.full(3, 255, np.uint8)
