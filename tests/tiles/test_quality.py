import cv2
import numpy as np
import pytest

from slidemill.tiles.quality import measure


def tile(value):
    return np.full((64, 64, 3), value, np.uint8)


def test_shares_of_white_and_black_are_exact():
    pixels = tile(128)
    pixels[:16] = 230
    pixels[16:24] = 10
    pixels[24:32] = (230, 230, 100)  # yellow is not white
    pixels[32:40] = (10, 10, 90)  # dark blue is not black
    found = measure(pixels)
    assert found.white == pytest.approx(16 / 64)
    assert found.black == pytest.approx(8 / 64)


def test_the_variance_of_the_laplacian_has_a_closed_form_on_a_checkerboard():
    y, x = np.mgrid[:64, :64]
    pixels = tile(0)
    pixels[(x + y) % 2 == 0] = 10
    # Inside, a cell and its four neighbours differ by 10: 4 * 10 up or down; borders reflect.
    assert measure(pixels).focus == pytest.approx(40.0**2, rel=0.01)
    assert measure(tile(77)).focus == 0


def test_blur_lowers_focus_and_nothing_else():
    rng = np.random.default_rng(0)
    sharp = cv2.GaussianBlur(rng.integers(90, 160, (64, 64, 3)).astype(np.uint8), (0, 0), 1.0)
    values = [measure(cv2.GaussianBlur(sharp, (0, 0), s)).focus for s in (0.5, 1.0, 2.0, 4.0)]
    assert measure(sharp).focus > values[0]
    assert values == sorted(values, reverse=True)
