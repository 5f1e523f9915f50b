import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidemill.tiles.keep import Limits, keep, why_none

TILES = pd.DataFrame(
    {
        "tissue_fraction": np.float32([0.0, 0.1, 0.5, 1.0, 1.0]),
        "padded_fraction": np.float32([0, 0, 0.5, 0, 0]),
        "pen_fraction": np.float32([0, 0, 0, 0.3, 0]),
        "white_fraction": np.float32([0.9, 0.2, 0.1, 0.0, 0]),
        "black_fraction": np.float32([0, 0.4, 0, 0, 0]),
        "focus": np.float32([10, 20, 30, 40, np.nan]),
        "read_error": [False, False, False, False, True],
    }
)


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        (Limits(), [0, 1, 2, 3]),
        (Limits(min_tissue=0.1), [1, 2, 3]),
        (Limits(min_tissue=0.5), [2, 3]),
        (Limits(max_padded=0.4), [0, 1, 3]),
        (Limits(max_pen=0.29), [0, 1, 2]),
        (Limits(max_white=0.2), [1, 2, 3]),
        (Limits(max_black=0.0), [0, 2, 3]),
        (Limits(min_focus=25), [2, 3]),
        (Limits(min_tissue=0.5, max_pen=0.1), [2]),
    ],
)
def test_limits_choose_tiles(limits, kept):
    assert np.flatnonzero(keep(TILES, limits)).tolist() == kept


def test_without_a_limit_a_missing_focus_is_no_fault():
    assert keep(TILES.assign(focus=np.float32("nan")), Limits()).sum() == 4
    assert keep(TILES.assign(focus=np.float32("nan")), Limits(min_focus=1)).sum() == 0


def test_the_reason_names_every_limit_that_leaves_out_and_the_best_value():
    words = why_none(TILES, Limits(min_tissue=1.0, max_white=0.05))
    assert "min_tissue = 1 leaves out 3" in words
    assert "best is 1" in words
    assert "max_white = 0.05 leaves out 3" in words
    assert "1 do not decode" in words
    assert "max_pen" not in words


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_stricter_limit_keeps_a_part(a, b):
    low, high = sorted((a, b))
    loose, strict = keep(TILES, Limits(min_tissue=low)), keep(TILES, Limits(min_tissue=high))
    assert (loose | ~strict).all()
