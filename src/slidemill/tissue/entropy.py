"""Tissue by the information in colour and texture, for faint and immunohistochemical stains.

Numerics only: arrays in, arrays out. The slide's own glass gives a distribution of what glass looks
like: two differences of colour and one of texture, each about normal. A window of tissue is text in
another language: its cross-entropy against glass, the mean of -log p of its pixels (Shannon, 1948),
is high whatever the stain, and high too where colour is faint but cells make a texture. Brightness
alone says nothing, so shadows and a lamp that falls off cost nothing.
"""

import cv2
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Planes = tuple[npt.NDArray[np.int16], npt.NDArray[np.int16], npt.NDArray[np.int16]]
"""Red, green and blue as thousandths of optical density (natural logarithm) against glass."""
Field = npt.NDArray[np.float32]

WINDOW_UM = 40.0
"""Edge of the window in which information is averaged."""
THRESHOLD = 5.0
"""Nats above the most likely glass, mean of a window; glass itself has 1.5."""
CEILING = 2 * THRESHOLD
"""Most that one pixel counts: a straight edge then lies where half of the window is tissue."""
MIN_DEVIATION = (8.0, 8.0, 12.0)
"""Least standard deviations of glass: red and blue less green, texture; thousandths."""
MAX_DEVIATION = (12.0, 12.0, 18.0)
"""Largest: glass that varies more has tissue among its samples."""


def entropy_tissue(
    densities: Planes, sharp: npt.NDArray[np.int16], glass: Mask, usable: Mask, mpp: float
) -> Mask:
    """Pixels in whose neighbourhood there is more than glass.

    Args:
        densities: Red, green and blue, each (H, W) int16, smoothed by about a cell's width.
        sharp: Green without smoothing, (H, W) int16.
        glass: (H, W), pixels that are most likely glass.
        usable: (H, W), False where pixels say nothing about tissue: ink, borders, damage.
        mpp: um per pixel.

    Returns:
        Where tissue is, (H, W).
    """
    # Brighter than glass is no tissue, whatever its colour.
    red, green, blue = (np.maximum(plane, 0) for plane in densities)
    size = max(3, 2 * round(WINDOW_UM / mpp / 2) + 1)
    # An excluded area counts as glass, or its edge would be texture.
    texture = np.where(usable, sharp, 0).astype(np.float32)
    texture -= cv2.blur(texture, (size, size))
    features: tuple[Field, ...] = (
        cv2.subtract(red, green).astype(np.float32),
        cv2.subtract(blue, green).astype(np.float32),
        texture,
    )
    sample = np.zeros_like(glass)
    sample[::4, ::4] = (glass & usable)[
        ::4, ::4
    ]  # every pixel is more than a standard deviation needs
    surprise = np.zeros(red.shape, np.float32)
    for feature, least, most in zip(features, MIN_DEVIATION, MAX_DEVIATION, strict=True):
        centre, deviation = _spread(feature[sample], least, most)
        feature -= np.float32(centre)
        if feature is texture:
            # Glass beside an edge has the edge's texture, but is no darker than glass.
            feature[sharp < 1.5 * deviation] = 0
        cv2.accumulateSquare(feature * np.float32(np.sqrt(0.5) / deviation), surprise)
    np.minimum(surprise, np.float32(CEILING), out=surprise)
    surprise[~usable] = 0
    found: Mask = cv2.blur(surprise, (size, size)) > THRESHOLD
    return found


def _spread(values: Field, least: float, most: float) -> tuple[float, float]:
    """Centre and standard deviation of glass, by medians, which dirt does not move."""
    if values.size < 50:
        return 0.0, least
    centre = float(np.median(values))
    deviation = 1.4826 * float(np.median(np.abs(values - centre)))
    return float(np.clip(centre, -least, least)), float(np.clip(deviation, least, most))
