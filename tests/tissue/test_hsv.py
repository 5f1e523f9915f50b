import colorsys

import numpy as np
import pytest

from slidemill.tissue.exclude import extremes
from slidemill.tissue.find import optical_densities
from slidemill.tissue.hsv import MIN_SATURATION, MIN_VALUE, hsv_tissue

GLASS = (220, 200, 180)


def judge(colours):
    pixels = np.asarray(colours, np.uint8).reshape(1, -1, 3)
    lightest, darkest = extremes(optical_densities(pixels, GLASS))
    return hsv_tissue(darkest - lightest, lightest)[0]


def test_thresholds_are_those_of_the_hsv_model_on_white_balanced_light():
    rng = np.random.default_rng(0)
    colours = (rng.random((500, 3)) * GLASS).astype(np.uint8) + 1
    found = judge(colours)
    for colour, is_tissue in zip(colours, found, strict=True):
        light = np.minimum(colour / np.array(GLASS), 1.0)
        _, s, v = colorsys.rgb_to_hsv(*light)
        if abs(s - MIN_SATURATION) > 0.003 and abs(v - MIN_VALUE) > 0.003:
            assert is_tissue == (s > MIN_SATURATION and v > MIN_VALUE)


@pytest.mark.parametrize("brightness", [1.0, 0.7, 0.4])
def test_glass_is_none_at_any_brightness(brightness):
    assert not judge([np.array(GLASS) * brightness]).any()


def test_stains_are_tissue_and_black_is_not():
    eosin, nucleus, brown, black = (205, 120, 150), (110, 80, 130), (130, 90, 50), (20, 12, 16)
    assert judge([eosin, nucleus, brown, black]).tolist() == [True, True, True, False]
