"""The synthetic set of `benchmarks/pretrain_arrangement.py` is what it says."""

import runpy
from pathlib import Path

import numpy as np
import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "pretrain_arrangement.py"
AXIS = np.repeat([0.5, 0.0], 4)
"""Direction of the features along which kinds differ."""


@pytest.fixture(scope="module")
def benchmark():
    return runpy.run_path(str(BENCHMARK))


@pytest.fixture(scope="module")
def cohort(benchmark):
    return benchmark["make_cohort"](60, 3)


def test_slides_have_100_to_1000_tiles_each_in_a_cell_of_its_own(cohort):
    for coords in cohort.bags.tile_coords:
        assert 100 <= len(coords) <= 1000
        assert len(np.unique(coords, axis=0)) == len(coords)


def test_kinds_come_in_equal_shares_and_only_patches_have_like_neighbours(benchmark):
    rng = np.random.default_rng(0)
    for patches, low, high in ((True, 0.75, 1.0), (False, 0.4, 0.6)):
        alike = []
        for _ in range(20):
            grid = benchmark["tissue"](rng)
            kinds = benchmark["arrange"](grid, patches, rng)
            assert kinds.sum() == len(grid) // 2
            kind_at = dict(zip(map(tuple, grid.tolist()), kinds.tolist(), strict=True))
            alike += [
                kind == kind_at[x + 1, y]
                for (x, y), kind in kind_at.items()
                if (x + 1, y) in kind_at
            ]
        assert low < np.mean(alike) < high


def test_one_tile_is_told_apart_in_98_of_100_cases(cohort):
    """By the best rule there is: the side of the plane between the two means."""
    wrong, tiles = 0, 0
    for bag in cohort.bags.tile_features:
        ones = int((bag.astype(np.float64) @ AXIS > 0).sum())
        # Half are of either kind: what the counts are off by, at least, was mistaken.
        wrong += abs(ones - len(bag) // 2)
        tiles += len(bag)
        projected = np.sort(bag.astype(np.float64) @ AXIS)
        low, high = projected[: len(bag) // 2], projected[len(bag) // 2 :]
        assert high.mean() - low.mean() == pytest.approx(2 * 2.054, abs=0.6)
    assert wrong / tiles < 0.03


def test_classes_do_not_differ_in_size_or_in_mean(cohort):
    sizes = np.array([len(bag) for bag in cohort.bags.tile_features])
    means = np.array([bag.astype(np.float64).mean() for bag in cohort.bags.tile_features])
    one = cohort.labels == 1
    for values in (sizes, means):
        spread = values.std() / np.sqrt(len(values) / 4)
        assert abs(values[one].mean() - values[~one].mean()) < 3 * spread
