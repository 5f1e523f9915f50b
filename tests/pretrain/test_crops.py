import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from slidemill.config import CropsConfig
from slidemill.pretrain.crops import augment_grid, draw_views, rebase, spatial_crop

cells = st.tuples(st.integers(-30, 400), st.integers(0, 60))
grids = st.lists(cells, min_size=1, max_size=60, unique=True).map(
    lambda tiles: np.array(tiles, dtype=np.int64)
)
scales = st.tuples(st.floats(0.01, 1.0), st.floats(0.01, 1.0)).map(lambda s: (min(s), max(s)))
seeds = st.integers(0, 2**32)
SQUARE = np.stack(np.meshgrid(np.arange(20), np.arange(20)), axis=-1).reshape(-1, 2)


@given(grids, scales, st.integers(1, 70), seeds)
def test_a_crop_is_all_tiles_of_one_rectangle(grid, scale, min_tiles, seed):
    rows = spatial_crop(grid, scale, min_tiles, np.random.default_rng(seed))
    assert rows.dtype == np.int64
    assert len(rows) >= min(min_tiles, len(grid))
    assert np.all(np.diff(rows) > 0)
    low, high = grid[rows].min(axis=0), grid[rows].max(axis=0)
    inside = np.all((grid >= low) & (grid <= high), axis=1)
    assert np.array_equal(np.flatnonzero(inside), rows)


@given(grids, seeds)
def test_a_crop_of_the_whole_extent_is_the_whole_slide(grid, seed):
    rows = spatial_crop(grid, (1.0, 1.0), 1, np.random.default_rng(seed))
    assert np.array_equal(rows, np.arange(len(grid)))


@given(scales, seeds)
def test_on_full_tissue_a_crop_is_a_square_of_the_share_drawn(scale, seed):
    rows = spatial_crop(SQUARE, scale, 1, np.random.default_rng(seed))
    edge = np.ptp(SQUARE[rows], axis=0) + 1
    assert edge[0] == edge[1]
    assert len(rows) == edge[0] ** 2
    assert max(np.rint(scale[0] * 20), 1) <= edge[0] <= max(np.rint(scale[1] * 20), 1)


def test_crops_reach_every_tile_and_differ():
    rng = np.random.default_rng(0)
    drawn = [tuple(spatial_crop(SQUARE, (0.3, 0.3), 1, rng)) for _ in range(400)]
    assert len(set(drawn)) > 100
    assert len({row for rows in drawn for row in rows}) == len(SQUARE)


def test_a_window_grows_by_whole_cells_until_it_has_enough():
    line = np.stack([np.arange(100), np.zeros(100)], axis=1).astype(np.int64)
    rng = np.random.default_rng(0)
    counts = [len(spatial_crop(line, (0.01, 0.01), 4, rng)) for _ in range(200)]
    assert set(counts) == {4, 5}  # 5 is two cells on either side; at an end of the line 4
    assert np.mean(np.array(counts) == 5) > 0.9


def test_crops_never_hit_only_glass():
    corners = np.array([[0, 0], [1000, 0], [0, 1000], [1000, 1000]], dtype=np.int64)
    rng = np.random.default_rng(0)
    drawn = [tuple(spatial_crop(corners, (0.2, 0.2), 1, rng)) for _ in range(80)]
    assert set(drawn) == {(0,), (1,), (2,), (3,)}


@given(grids, seeds)
def test_turns_and_mirrors_keep_distances_up_to_swapped_axes(grid, seed):
    turned = augment_grid(grid, np.random.default_rng(seed))
    assert turned.dtype == np.int64
    assert turned.min(axis=0).tolist() == [0, 0]
    before = [pdist(grid[:, [axis]]) for axis in (0, 1)]
    after = [pdist(turned[:, [axis]]) for axis in (0, 1)]
    same = all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    swapped = all(np.array_equal(a, b) for a, b in zip(before[::-1], after, strict=True))
    assert same or swapped


def test_all_eight_symmetries_come_up_alike():
    shape = np.array([[0, 0], [1, 0], [3, 2]], dtype=np.int64)
    rng = np.random.default_rng(0)
    seen = [augment_grid(shape, rng).tobytes() for _ in range(1600)]
    counts = [seen.count(one) for one in set(seen)]
    assert len(counts) == 8
    assert min(counts) > 140


@given(grids)
def test_rebase_shifts_and_nothing_else(grid):
    shift = grid - rebase(grid)
    assert np.all(shift == grid.min(axis=0))


@given(grids, st.integers(8, 30), seeds)
def test_views_are_crops_of_one_subset(grid, max_tiles, seed):
    crops = CropsConfig(global_crops=3, local_crops=2, global_scale=(1.0, 1.0))
    views = draw_views(grid, crops, max_tiles, np.random.default_rng(seed))
    assert (len(views.global_crops), len(views.local_crops)) == (3, 2)
    whole = views.global_crops[0].rows
    assert len(whole) == min(len(grid), max_tiles)
    for crop in (*views.global_crops, *views.local_crops):
        assert np.isin(crop.rows, whole).all()
        assert len(crop.rows) >= min(crops.min_tiles, len(whole))
        moved, kept = pdist(crop.positions), pdist(grid[crop.rows])
        np.testing.assert_allclose(moved, kept)


def test_local_crops_are_smaller_and_views_follow_the_seed():
    crops = CropsConfig()

    def sizes(seed):
        views = draw_views(SQUARE, crops, 1000, np.random.default_rng(seed))
        return [[len(c.rows) for c in part] for part in (views.global_crops, views.local_crops)]

    large, small = sizes(1)
    assert min(large) >= 10**2 >= max(small)
    assert sizes(1) == sizes(1) != sizes(2)
