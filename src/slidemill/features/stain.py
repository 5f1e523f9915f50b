"""Stain separation: red, green and blue to haematoxylin, eosin and a residual.

Light is absorbed by the Beer-Lambert law, so optical densities of stains add up and one matrix
takes them apart (Ruifrok & Johnston 2001, Anal. Quant. Cytol. Histol. 23:291). The stain vectors
are scikit-image's; the values equal those of its `rgb2hed`, scaled to optical densities in natural
logarithms, where no channel is 0.
"""

import numpy as np
import numpy.typing as npt
from skimage.color import hed_from_rgb

_DENSITY = -np.log(np.maximum(np.arange(256), 1) / 255.0).astype(np.float32)
_MATRIX = hed_from_rgb.astype(np.float32)


def separate_stains(tile: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Amounts of the three stains in each pixel.

    Args:
        tile: RGB, (H, W, 3) uint8.

    Returns:
        (3, H, W) float32: haematoxylin, eosin, residual; optical density, natural logarithm, at
        least 0.
    """
    stains: npt.NDArray[np.float32] = np.maximum(_DENSITY[tile] @ _MATRIX, 0.0)
    return np.ascontiguousarray(stains.transpose(2, 0, 1))
