import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from slidemill.errors import CohortError
from slidemill.pretrain.bags import (
    ArrayBags,
    distinct_tiles,
    draw_rows,
    feature_moments,
    finite_features,
    grid_positions,
)


def bags_of(features):
    coords = [np.stack([np.arange(len(f)) * 512] * 2, axis=1).astype(np.int64) for f in features]
    ids = [f"slide-{i}" for i in range(len(features))]
    return ArrayBags(ids, coords, [(512.0, 512.0)] * len(features), features)


@given(
    hnp.arrays(np.int64, (20, 2), elements=st.integers(0, 2000)),
    st.tuples(st.floats(3.0, 3000.0), st.floats(3.0, 3000.0)),
)
def test_grid_positions_undo_rounding_to_whole_pixels(grid, step):
    for rounding in (np.floor, np.rint):
        coords = rounding(grid * np.array(step)).astype(np.int64)
        assert np.array_equal(grid_positions(coords, step), grid)


def test_grid_positions_hold_coordinates_beyond_half_precision():
    coords = np.array([[16_128, 0], [16_384, 256], [250_112, 100_096]], dtype=np.int64)
    assert grid_positions(coords, (256.0, 256.0)).tolist() == [[63, 0], [64, 1], [977, 391]]


def test_grid_positions_know_no_largest_slide():
    coords = np.array([[256_000, 300_000], [2**40, 2**40 + 512]], dtype=np.int64)
    expected = [[1000, 1172], [2**32, 2**32 + 2]]
    assert grid_positions(coords, (256.0, 256.0)).tolist() == expected


def test_grid_positions_refuse_floats_and_steps_that_are_not_positive():
    with pytest.raises(ValueError, match="float16"):
        grid_positions(np.zeros((1, 2), dtype=np.float16), (256.0, 256.0))
    with pytest.raises(ValueError, match="positive"):
        grid_positions(np.zeros((1, 2), dtype=np.int64), (256.0, 0.0))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 9))
def test_draw_rows_are_distinct_ascending_and_as_many_as_allowed(count, max_tiles, seed):
    rows = draw_rows(count, max_tiles, np.random.default_rng(seed))
    assert len(rows) == min(count, max_tiles)
    assert np.all(np.diff(rows) > 0)
    assert rows[0] >= 0 and rows[-1] < count


def test_draw_rows_are_uniform():
    rng = np.random.default_rng(0)
    hits = np.bincount(np.concatenate([draw_rows(10, 3, rng) for _ in range(4000)]), minlength=10)
    assert np.abs(hits / 4000 - 0.3).max() < 0.03


def test_moments_are_those_of_all_tiles_together():
    rng = np.random.default_rng(0)
    features = [rng.normal(3.0, 2.0, size=(n, 5)).astype(np.float32) for n in (4, 9, 30)]
    for one in features:
        one[:, 2] = 7.0
    mean, std = feature_moments(bags_of(features), 100, rng)
    everything = np.concatenate(features).astype(np.float64)
    expected = everything.std(axis=0)
    expected[2] = 1.0
    assert mean.dtype == std.dtype == np.float32
    np.testing.assert_allclose(mean, everything.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(std, expected, rtol=1e-6)


def test_moments_read_no_more_tiles_than_allowed():
    class Counting(ArrayBags):
        def features(self, i, rows=None):
            assert rows is not None and len(rows) <= 4
            return super().features(i, rows)

    plain = bags_of([np.ones((10, 2), dtype=np.float32)])
    counting = Counting(plain.slide_ids, plain.tile_coords, plain.steps, plain.tile_features)
    mean, _ = feature_moments(counting, 4, np.random.default_rng(0))
    assert mean.tolist() == [1.0, 1.0]


def test_array_bags_give_rows():
    bags = bags_of([np.arange(8, dtype=np.float32).reshape(4, 2)])
    assert bags.dim == 2
    assert bags.features(0, np.array([1, 3])).tolist() == [[2.0, 3.0], [6.0, 7.0]]
    assert bags.features(0).shape == (4, 2)
    assert bags.coords(0)[1].tolist() == [512, 512]
    assert bags.step(0) == (512.0, 512.0)


def test_array_bags_refuse_what_does_not_belong_together():
    one = np.zeros((3, 2), dtype=np.float32)
    coords = np.zeros((3, 2), dtype=np.int64)
    with pytest.raises(ValueError, match="same number"):
        ArrayBags(["a", "b"], [coords], [(1.0, 1.0)], [one])
    with pytest.raises(ValueError, match="same number"):
        ArrayBags([], [], [], [])
    with pytest.raises(ValueError, match="b: coords"):
        ArrayBags(["a", "b"], [coords, coords[:2]], [(1.0, 1.0)] * 2, [one, one])
    with pytest.raises(ValueError, match="a: coords"):
        ArrayBags(["a"], [coords[:0]], [(1.0, 1.0)], [one[:0]])
    with pytest.raises(ValueError, match=r"b: features \(3, 1\)"):
        ArrayBags(["a", "b"], [coords, coords], [(1.0, 1.0)] * 2, [one, one[:, :1]])


def test_steps_in_micrometres_are_given_or_refused():
    bags = bags_of([np.zeros((4, 2), dtype=np.float32)])
    with pytest.raises(ValueError, match="steps_um"):
        bags.step_um(0)
    scaled = ArrayBags(
        bags.slide_ids, bags.tile_coords, bags.steps, bags.tile_features, [(128.0, 129.0)]
    )
    assert scaled.step_um(0) == (128.0, 129.0)
    with pytest.raises(ValueError, match="same number"):
        ArrayBags(bags.slide_ids, bags.tile_coords, bags.steps, bags.tile_features, [])


@given(hnp.arrays(np.int64, st.tuples(st.integers(0, 40), st.just(2)), elements=st.integers(-3, 3)))
def test_of_tiles_in_one_cell_the_first_is_used(grid):
    _, first = np.unique(grid, axis=0, return_index=True)
    rows = distinct_tiles(grid)
    assert rows.dtype == np.int64
    assert np.array_equal(rows, np.sort(first))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_name_their_slide(dtype, value):
    features = [np.ones((5, 3), dtype=dtype) for _ in range(2)]
    features[1][2:4, 1] = value
    bags = bags_of(features)
    assert finite_features(bags, 1, np.array([0, 1, 4])).dtype == dtype
    with pytest.raises(CohortError, match=r"slide slide-1: .* 2 tile\(s\) of the 5 .*again"):
        finite_features(bags, 1, np.arange(5))
    with pytest.raises(CohortError, match="slide-1"):
        feature_moments(bags, 100, np.random.default_rng(0))


def test_the_largest_number_of_half_precision_is_finite():
    bags = bags_of([np.full((2, 2), sign * 65504, dtype=np.float16) for sign in (1, -1)])
    for i in (0, 1):
        assert finite_features(bags, i, np.arange(2)).shape == (2, 2)
