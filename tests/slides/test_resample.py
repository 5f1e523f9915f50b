import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from slidemill.slides.resample import area_resample

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_whole_pixels_are_kept():
    assert (area_resample(IMAGE, (3, 5, 43, 35), (40, 30)) == IMAGE[5:35, 3:43]).all()


def test_halving_is_the_mean_of_four():
    expected = IMAGE.reshape(20, 2, 30, 2, 3).mean(axis=(1, 3))
    assert np.abs(area_resample(IMAGE, (0, 0, 60, 40), (30, 20)) - expected).max() <= 0.5


def test_half_a_pixel_of_shift_is_the_mean_of_neighbours():
    line = np.array([[[0], [100], [200]]], np.uint8)
    assert area_resample(line, (0.5, 0, 2.5, 1), (2, 1)).ravel().tolist() == [50, 150]


def test_upsampling_repeats_pixels():
    line = np.array([[[0], [200]]], np.uint8)
    assert area_resample(line, (0, 0, 2, 1), (4, 1)).ravel().tolist() == [0, 0, 200, 200]


@given(st.floats(0, 10), st.floats(0, 10), st.floats(20, 60), st.floats(20, 40), st.integers(1, 50))
def test_uniform_images_stay_uniform_and_the_mean_is_kept(left, top, right, bottom, size):
    flat = np.full((40, 60, 3), 137, np.uint8)
    assert (area_resample(flat, (left, top, right, bottom), (size, size)) == 137).all()
    one = area_resample(IMAGE, (left, top, right, bottom), (1, 1)).astype(float)
    many = area_resample(IMAGE, (left, top, right, bottom), (size, size)).mean(axis=(0, 1))
    assert np.abs(one - many).max() <= 1.01
