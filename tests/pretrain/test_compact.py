import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from slidemill.config.pretrain import CropsConfig
from slidemill.pretrain.compact import compact_views, hilbert_index, square_ranks, tissue_order

ORDERINGS = ["stored", "row-major", "hilbert"]
cells = st.tuples(st.integers(-30, 400), st.integers(0, 60))
grids = st.lists(cells, min_size=1, max_size=60, unique=True).map(
    lambda tiles: np.array(tiles, dtype=np.int64)
)
seeds = st.integers(0, 2**32)


def full(edge):
    """All cells of a square, row by row."""
    return np.stack(np.meshgrid(np.arange(edge), np.arange(edge)), axis=-1).reshape(-1, 2)


def crops_of(views):
    return (*views.global_crops, *views.local_crops)


@pytest.mark.parametrize("bits", range(7))
def test_hilberts_curve_visits_every_cell_once_and_steps_to_neighbours(bits):
    square = full(2**bits)
    index = hilbert_index(square)
    assert sorted(index) == list(range(4**bits))
    steps = np.abs(np.diff(square[np.argsort(index)], axis=0)).sum(axis=1)
    assert np.all(steps == 1)
    assert index[0] == 0


def test_hilberts_curve_fills_each_quadrant_in_one_go():
    square = full(16)
    quadrant = square // 8 @ np.array([1, 2])
    for part in range(4):
        assert np.ptp(hilbert_index(square)[quadrant == part]) == 63


def test_hilberts_curve_holds_far_cells_apart():
    far = np.array([[2**31 - 1, 2**31 - 1], [2**31 - 1, 2**31 - 2], [0, 0]], dtype=np.int64)
    assert len(set(hilbert_index(far).tolist())) == 3
    assert hilbert_index(far).min() == 0
    assert hilbert_index(far[:0]).tolist() == []


@given(st.integers(1, 20), st.sampled_from(ORDERINGS))
def test_a_square_has_every_rank_once(side, ordering):
    ranks = square_ranks(side, ordering)
    assert ranks.shape == (side, side)
    assert sorted(ranks.ravel()) == list(range(side**2))


@given(grids, st.sampled_from(ORDERINGS))
def test_an_order_has_every_tile_once(grid, ordering):
    assert sorted(tissue_order(grid, ordering)) == list(range(len(grid)))


def test_row_major_is_by_row_then_column():
    grid = np.array([[5, 1], [2, 3], [0, 3], [9, 0]], dtype=np.int64)
    assert tissue_order(grid, "row-major").tolist() == [3, 0, 2, 1]


@given(
    grids,
    st.sampled_from(ORDERINGS),
    st.integers(1, 70),
    st.integers(8, 40),
    st.tuples(st.floats(0.01, 1.0), st.floats(0.01, 1.0)).map(lambda s: (min(s), max(s))),
    seeds,
)
def test_crops_keep_the_limits_and_the_geometry_of_the_tissue(
    grid, ordering, min_tiles, max_tiles, size, seed
):
    config = CropsConfig(global_size=(0.5, 1.0), local_size=size, min_tiles=min_tiles)
    views = compact_views(grid, config, max_tiles, ordering, np.random.default_rng(seed))
    assert (len(views.global_crops), len(views.local_crops)) == (2, 4)
    least = min(min_tiles, int(max_tiles**0.5) ** 2, len(grid))
    for crop in crops_of(views):
        assert least <= len(crop.rows) <= max_tiles
        assert np.all(np.diff(crop.rows) > 0)
        assert crop.positions.min(axis=0).tolist() == [0, 0]
        np.testing.assert_allclose(pdist(crop.positions), pdist(grid[crop.rows]))


@pytest.mark.parametrize("tiles", [1, 2, 3])
@pytest.mark.parametrize("ordering", ORDERINGS)
def test_a_slide_of_fewer_tiles_than_a_crop_needs_is_its_own_crop(tiles, ordering):
    rng = np.random.default_rng(0)
    views = compact_views(full(9)[::7][:tiles], CropsConfig(min_tiles=4), 8, ordering, rng)
    for crop in crops_of(views):
        assert crop.rows.tolist() == list(range(tiles))


def test_stored_order_has_the_published_sizes():
    config = CropsConfig(
        global_size=(0.875, 0.875), local_size=(0.375, 0.375), local_crops=8, min_tiles=4
    )
    rng = np.random.default_rng(0)
    views = compact_views(full(120), config, 8192, "stored", rng)
    assert [len(crop.rows) for crop in views.global_crops] == [78**2] * 2
    assert [len(crop.rows) for crop in views.local_crops] == [12**2] * 8


def test_stored_order_lays_a_random_subset_row_by_row():
    config = CropsConfig(global_size=(0.5, 0.5), local_crops=0, min_tiles=1)
    line = np.stack([np.arange(121), np.zeros(121)], axis=1).astype(np.int64)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(250):
        for crop in compact_views(line, config, 8192, "stored", rng).global_crops:
            rows = crop.rows.reshape(5, 5)  # a 5 x 5 window of the 11 x 11 square
            assert np.all(np.diff(rows, axis=1) == 1)
            assert np.all(np.diff(rows, axis=0) == 11)
            seen.update(crop.rows.tolist())
    assert seen == set(range(121))
    # Of 120 tiles a 10 x 10 square: 20 are left out, others each time.
    subset = config.model_copy(update={"global_size": (1.0, 1.0)})
    first, second = compact_views(line[:120], subset, 8192, "stored", rng).global_crops
    assert len(first.rows) == len(second.rows) == 100
    assert not np.array_equal(first.rows, second.rows)


@pytest.mark.parametrize("ordering", ["row-major", "hilbert"])
def test_on_full_tissue_the_square_is_the_tissue(ordering):
    config = CropsConfig(global_size=(0.3, 0.6), local_crops=0)
    tissue = full(13)
    shuffled = tissue[np.random.default_rng(3).permutation(len(tissue))]
    views = compact_views(shuffled, config, 8192, ordering, np.random.default_rng(0))
    for crop in views.global_crops:
        edge = np.ptp(shuffled[crop.rows], axis=0) + 1
        assert edge[0] == edge[1]
        assert len(crop.rows) == edge[0] ** 2
        assert int(0.3 * 13) <= edge[0] <= int(0.6 * 13)


@pytest.mark.parametrize("ordering", ["row-major", "hilbert"])
def test_too_large_a_window_is_made_smaller_and_not_thinned(ordering):
    config = CropsConfig(global_size=(1.0, 1.0), local_size=(1.0, 1.0))
    tissue = full(20)
    views = compact_views(tissue, config, 50, ordering, np.random.default_rng(0))
    for crop in crops_of(views):
        assert len(crop.rows) == 49
        assert (np.ptp(tissue[crop.rows], axis=0) + 1).tolist() == [7, 7]


def test_hilberts_windows_keep_more_neighbours_than_rows_do():
    rng = np.random.default_rng(0)
    column, row = full(60).T
    tissue = full(60)[(column - 30) ** 2 / 2 + (row - 30) ** 2 + 200 * np.sin(column / 5) < 400]
    index = {tuple(cell): number for number, cell in enumerate(tissue.tolist())}
    pairs = np.array(
        [(i, index[x + 1, y]) for (x, y), i in index.items() if (x + 1, y) in index]
        + [(i, index[x, y + 1]) for (x, y), i in index.items() if (x, y + 1) in index]
    )
    config = CropsConfig(global_size=(0.2, 0.3), local_crops=0)

    def kept(ordering):
        share = []
        for _ in range(40):
            for crop in compact_views(tissue, config, 8192, ordering, rng).global_crops:
                inside = np.isin(pairs, crop.rows)
                share.append(inside.all(axis=1).sum() / inside.any(axis=1).sum())
        return np.mean(share)

    assert kept("hilbert") > kept("row-major") + 0.1


def test_crops_in_micrometres_are_refused():
    config = CropsConfig(unit="um", global_size=(100.0, 200.0), local_size=(50.0, 60.0))
    with pytest.raises(ValueError, match="share"):
        compact_views(full(9), config, 8192, "hilbert", np.random.default_rng(0))


def test_views_follow_the_seed():
    def rows(seed):
        views = compact_views(full(9), CropsConfig(), 99, "stored", np.random.default_rng(seed))
        return [crop.rows.tolist() for crop in crops_of(views)]

    assert rows(1) == rows(1) != rows(2)
