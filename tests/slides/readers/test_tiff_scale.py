"""Scales that a level of a TIFF may have."""

import pytest

from slidemill.slides.readers.base import true_size
from slidemill.slides.readers.tiff_scale import scales

FULL = (1990, 1990)
TILE = (256, 256)


@pytest.mark.parametrize(
    ("above", "size", "tile", "stated", "expected"),
    [
        (1.0, (995, 995), TILE, None, [2.0]),
        (1.0, (997, 997), TILE, None, [1990 / 997]),
        (1.0, (995, 995), None, 2.0, [2.0]),
        (1.0, (995, 995), None, 4.0, [2.0]),  # contradicted by the size
        (1.0, (1024, 1024), TILE, 2.0, [2.0]),
        (1.0, (1024, 1024), TILE, None, [2.0, 1990 / 1024]),  # padding first
        (1.0, (1900, 1900), TILE, None, []),  # too little smaller
        (2.0, (995, 995), TILE, None, []),
        (1.0, (500, 995), TILE, None, []),  # another shape
        (1.0, (2500, 995), TILE, None, []),
    ],
)
def test_scales(above, size, tile, stated, expected):
    found, is_stated = scales(FULL, above, size, tile, stated)
    assert found == pytest.approx(expected)
    assert is_stated == (stated == 2.0)


def test_a_level_of_the_size_of_the_one_above_may_be_padded():
    found, _ = scales(FULL, 8.0, (256, 256), TILE, None)
    assert found[0] == 16.0
    assert min(found) >= 8 * 1.2


def test_true_sizes():
    assert true_size(FULL, (1024, 1024), TILE, 2.0) == (995, 995)
    assert true_size(FULL, (995, 995), TILE, 2.0) == (995, 995)
    assert true_size((2048, 1990), (1024, 1024), TILE, 2.0) == (1024, 995)
    assert true_size(FULL, (1024, 1024), None, 2.0) == (1024, 1024)
