"""Tissue by Otsu's threshold on saturation, found anew in every slide.

Numerics only: arrays in, arrays out. Saturation is measured as optical density, against the slide's
own glass: the density of the most absorbed channel less that of the least. Stain has a colour and
so a saturation at any brightness of the lamp; shadows, edges and dust absorb all channels alike.

Otsu (1979, A threshold selection method from gray-level histograms) parts the histogram in two. Two
changes fit it to slides. It sees the logarithm of the saturation, because strong stain is ten times
as saturated as weak stain and would else draw the threshold between the two. And it stays between a
floor, which glass and its noise do not reach, and a ceiling, which weak stain reaches.
"""

import cv2
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Saturation = npt.NDArray[np.int16]
"""Thousandths of optical density (natural logarithm)."""

FLOOR = 0.028
"""Least threshold, optical density."""
CEILING = 0.065
"""Largest threshold, optical density."""
NOISE_FACTOR = 3.5
"""Threshold over the commonest saturation of glass: normal noise is over it once in 1000 pixels."""
MAX_NOISE = 0.025
"""Glass is not more saturated than this."""
_KNEE = 0.02  # below it the histogram is about linear, above it logarithmic
_HIGHEST = 1.0  # ink and the like shall not set the threshold


def otsu_tissue(saturation: Saturation, usable: Mask) -> tuple[Mask, float]:
    """Pixels that are as saturated as stain.

    Args:
        saturation: (H, W) int16, thousandths of optical density.
        usable: (H, W), False where the pixels say nothing about stain: ink, borders, damage.

    Returns:
        Where stain is, (H, W), and the threshold that parted it, optical density.
    """
    threshold = otsu_threshold(saturation, usable)
    return saturation > round(1000 * threshold), threshold


def otsu_threshold(saturation: Saturation, usable: Mask) -> float:
    """Otsu's threshold on the logarithm of saturation, within `FLOOR` and `CEILING`.

    Noise raises the floor: the largest of three channels less the least is never zero, and its
    commonest value on glass tells how strong the noise is.

    Args:
        saturation: (H, W) int16, thousandths of optical density.
        usable: (H, W), pixels that count.

    Returns:
        Optical density; `FLOOR` where the histogram has but one value.
    """
    top = round(1000 * _HIGHEST)
    clipped = np.clip(saturation, 0, top).astype(np.uint16)
    counts = cv2.calcHist([clipped], [0], usable.view(np.uint8), [top + 1], [0, top + 1])
    weights = counts.ravel().astype(np.float64)
    if np.count_nonzero(weights) < 2:
        return FLOOR
    noise = np.convolve(weights[: round(1000 * MAX_NOISE)], np.ones(5), mode="same")
    floor = max(FLOOR, min(NOISE_FACTOR * int(noise.argmax()) / 1000, CEILING))
    values = np.log1p(np.arange(top + 1) / (1000 * _KNEE))
    share = np.cumsum(weights) / weights.sum()
    moment = np.cumsum(weights * values) / weights.sum()
    # Variance between the classes at or below, and above, every value.
    inner = share * (1 - share)
    between = np.zeros_like(share)
    np.divide((moment[-1] * share - moment) ** 2, inner, out=between, where=inner > 1e-12)
    # Empty values between two classes are all as good: take their middle.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float(np.clip(best.mean() / 1000, floor, CEILING))
