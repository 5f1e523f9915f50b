"""Tissue by fixed thresholds on saturation and brightness.

Numerics only: arrays in, arrays out. These are S and V of the HSV model after white balance: light
is divided by the slide's own glass before the thresholds are put to it. Nothing adapts to how much
tissue there is, so slides of one cohort are all judged alike.
"""

import math

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Plane = npt.NDArray[np.int16]
"""Thousandths of optical density (natural logarithm)."""

MIN_SATURATION = 0.045
"""Least S of tissue, 0 to 1."""
MIN_VALUE = 0.15
"""Least V of tissue, as a fraction of glass: darker is ink or a border."""


def hsv_tissue(saturation: Plane, lightest: Plane) -> Mask:
    """Pixels of which S and V are those of stain.

    S is 1 - min / max over the channels of white-balanced light, hence 1 - exp(-d) for the
    difference d of optical densities; V is exp(-d) for the density d of the lightest channel.

    Args:
        saturation: Difference between the most and the least absorbed channel, (H, W) int16,
            thousandths of optical density.
        lightest: Optical density of the least absorbed channel, (H, W) int16, thousandths.

    Returns:
        Where stain is, (H, W).
    """
    least = round(-1000 * math.log(1 - MIN_SATURATION))
    darkest = round(-1000 * math.log(MIN_VALUE))
    found: Mask = (saturation >= least) & (lightest <= darkest)
    return found
