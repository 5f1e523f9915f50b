import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import label
from scipy.spatial.distance import pdist
from scipy.stats import chisquare

from slidemill.config import CropsConfig
from slidemill.pretrain.crops import (
    MAX_SHIFT,
    augment_grid,
    draw_views,
    rebase,
    shift_grid,
    spatial_crop,
)

cells = st.tuples(st.integers(-30, 400), st.integers(0, 60))
grids = st.lists(cells, min_size=1, max_size=60, unique=True).map(
    lambda tiles: np.array(tiles, dtype=np.int64)
)
scales = st.tuples(st.floats(0.01, 1.0), st.floats(0.01, 1.0)).map(lambda s: (min(s), max(s)))
seeds = st.integers(0, 2**32)
SQUARE = np.stack(np.meshgrid(np.arange(20), np.arange(20)), axis=-1).reshape(-1, 2)


@given(grids, scales, st.integers(1, 70), seeds)
def test_a_crop_is_all_tiles_of_one_rectangle(grid, scale, min_tiles, seed):
    rows = spatial_crop(grid, scale, min_tiles, 1000, np.random.default_rng(seed))
    assert rows.dtype == np.int64
    assert len(rows) >= min(min_tiles, len(grid))
    assert np.all(np.diff(rows) > 0)
    low, high = grid[rows].min(axis=0), grid[rows].max(axis=0)
    inside = np.all((grid >= low) & (grid <= high), axis=1)
    assert np.array_equal(np.flatnonzero(inside), rows)


@given(grids, seeds)
def test_a_crop_of_the_whole_extent_is_the_whole_slide(grid, seed):
    rows = spatial_crop(grid, (1.0, 1.0), 1, 1000, np.random.default_rng(seed))
    assert np.array_equal(rows, np.arange(len(grid)))


@given(scales, seeds)
def test_on_full_tissue_a_crop_is_a_square_of_the_share_drawn(scale, seed):
    rows = spatial_crop(SQUARE, scale, 1, 1000, np.random.default_rng(seed))
    edge = np.ptp(SQUARE[rows], axis=0) + 1
    assert edge[0] == edge[1]
    assert len(rows) == edge[0] ** 2
    assert max(np.rint(scale[0] * 20), 1) <= edge[0] <= max(np.rint(scale[1] * 20), 1)


def test_crops_reach_every_tile_and_differ():
    rng = np.random.default_rng(0)
    drawn = [tuple(spatial_crop(SQUARE, (0.3, 0.3), 1, 1000, rng)) for _ in range(400)]
    assert len(set(drawn)) > 100
    assert len({row for rows in drawn for row in rows}) == len(SQUARE)


def test_a_window_grows_by_whole_cells_until_it_has_enough():
    line = np.stack([np.arange(100), np.zeros(100)], axis=1).astype(np.int64)
    rng = np.random.default_rng(0)
    counts = [len(spatial_crop(line, (0.01, 0.01), 4, 1000, rng)) for _ in range(200)]
    assert set(counts) == {4, 5}  # 5 is two cells on either side; at an end of the line 4
    assert np.mean(np.array(counts) == 5) > 0.9


def test_crops_never_hit_only_glass():
    corners = np.array([[0, 0], [1000, 0], [0, 1000], [1000, 1000]], dtype=np.int64)
    rng = np.random.default_rng(0)
    drawn = [tuple(spatial_crop(corners, (0.2, 0.2), 1, 1000, rng)) for _ in range(80)]
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


@given(grids, seeds)
def test_a_shift_moves_all_tiles_alike_by_less_than_its_limit(grid, seed):
    shifted = shift_grid(grid, np.random.default_rng(seed))
    assert shifted.dtype == np.int64
    assert shifted.shape == grid.shape
    (move,) = np.unique(shifted - grid, axis=0)
    assert np.all((move >= 0) & (move < MAX_SHIFT))


def test_shifts_are_uniform_and_independent_in_both_axes():
    rng = np.random.default_rng(0)
    origin = np.zeros((1, 2), dtype=np.int64)
    moves = np.concatenate([shift_grid(origin, rng) for _ in range(64 * MAX_SHIFT)])
    for axis in (0, 1):
        counts = np.bincount(moves[:, axis], minlength=MAX_SHIFT)
        assert len(counts) == MAX_SHIFT
        assert chisquare(counts).pvalue > 1e-3
    assert abs(np.corrcoef(moves.T)[0, 1]) < 0.05
    assert origin.max() == 0


def is_one_patch(rows):
    mask = np.zeros((20, 20), dtype=bool)
    mask[tuple(SQUARE[rows].T)] = True
    return label(mask)[1] == 1


@given(grids, scales, st.integers(1, 70), st.integers(1, 30), seeds)
def test_a_crop_with_too_many_tiles_is_cut_to_as_many_as_allowed(
    grid, scale, min_tiles, max_tiles, seed
):
    free = spatial_crop(grid, scale, min_tiles, 1000, np.random.default_rng(seed))
    cut = spatial_crop(grid, scale, min_tiles, max_tiles, np.random.default_rng(seed))
    assert len(cut) == min(len(free), max_tiles)
    assert np.isin(cut, free).all()
    assert np.all(np.diff(cut) > 0)


@given(st.integers(1, 399), seeds)
def test_a_crop_that_is_cut_stays_one_patch_without_holes(max_tiles, seed):
    rows = spatial_crop(SQUARE, (1.0, 1.0), 1, max_tiles, np.random.default_rng(seed))
    assert len(rows) == max_tiles
    width, height = np.ptp(SQUARE[rows], axis=0) + 1
    # All cells of the rectangle but for some of its outermost ones.
    assert max(width - 2, 0) * max(height - 2, 0) < max_tiles <= width * height
    assert abs(width - height) <= 2
    assert is_one_patch(rows)


@given(st.floats(0.05, 1.0), st.integers(1, 200), st.integers(1, 200), seeds)
def test_a_crop_is_cut_towards_the_drawn_tile(share, min_tiles, max_tiles, seed):
    def crop(most):
        rng = np.random.default_rng(seed)
        return SQUARE[spatial_crop(SQUARE, (share, share), min_tiles, most, rng)]

    window, (tile,), kept = crop(1000), crop(1), crop(max_tiles)
    sides = np.stack([tile - window.min(axis=0), window.max(axis=0) - tile]).clip(min=1)

    def left_at(cells):
        """Share of the window at which it no longer holds a cell, then the cell's distance."""
        offset = cells - tile
        shares = np.abs(offset) / np.where(offset < 0, *sides)
        return [*zip(shares.max(axis=1), (offset**2).sum(axis=1), strict=True)]

    assert sorted(left_at(kept)) == sorted(left_at(window))[:max_tiles]


def test_cut_crops_hold_the_drawn_tile_and_reach_the_whole_slide():
    rng = np.random.default_rng(0)
    drawn = [spatial_crop(SQUARE, (1.0, 1.0), 1, 1, rng)[0] for _ in range(4000)]
    counts = np.bincount(drawn, minlength=400)
    assert counts.min() > 0
    assert counts.max() < 30  # 10 are expected
    cover = np.bincount(
        np.concatenate([spatial_crop(SQUARE, (1.0, 1.0), 1, 100, rng) for _ in range(2000)]),
        minlength=400,
    )
    assert cover.min() > 0


def test_a_crop_is_cut_in_its_own_proportions():
    oblong = SQUARE[SQUARE[:, 0] < 10]
    for seed in range(20):
        rows = spatial_crop(oblong, (1.0, 1.0), 1, 50, np.random.default_rng(seed))
        width, height = np.ptp(oblong[rows], axis=0) + 1
        assert 1.4 <= height / width <= 2.9


@pytest.mark.parametrize(
    ("size", "edges"), [((64.0, 64.0), (4, 2)), ((1.0, 1.0), (1, 1)), ((1e6, 1e6), (20, 20))]
)
def test_crops_in_micrometres_have_that_edge_in_tissue(size, edges):
    rng = np.random.default_rng(0)
    for _ in range(10):
        rows = spatial_crop(SQUARE, size, 1, 1000, rng, step_um=(16.0, 32.0))
        assert tuple(np.ptp(SQUARE[rows], axis=0) + 1) == edges


def test_views_in_micrometres_take_the_slides_step():
    crops = CropsConfig(unit="um", global_size=(640.0, 640.0), local_size=(320.0, 320.0))
    views = draw_views(SQUARE, crops, 1000, np.random.default_rng(0), step_um=(64.0, 64.0))
    assert [len(crop.rows) for crop in views.global_crops] == [100] * 2
    assert [len(crop.rows) for crop in views.local_crops] == [25] * 4
    with pytest.raises(ValueError, match="step_um"):
        draw_views(SQUARE, crops, 1000, np.random.default_rng(0))


def test_shares_do_not_look_at_the_step():
    views = [
        draw_views(SQUARE, CropsConfig(), 1000, np.random.default_rng(0), step_um=step)
        for step in (None, (64.0, 64.0))
    ]
    first, second = ([c.rows.tolist() for c in v.global_crops + v.local_crops] for v in views)
    assert first == second


@given(grids, st.integers(8, 30), seeds)
def test_views_have_the_geometry_of_their_tiles(grid, max_tiles, seed):
    crops = CropsConfig(global_crops=3, local_crops=2, global_size=(1.0, 1.0))
    views = draw_views(grid, crops, max_tiles, np.random.default_rng(seed))
    assert (len(views.global_crops), len(views.local_crops)) == (3, 2)
    assert {len(crop.rows) for crop in views.global_crops} == {min(len(grid), max_tiles)}
    for crop in (*views.global_crops, *views.local_crops):
        assert min(crops.min_tiles, len(grid)) <= len(crop.rows) <= max_tiles
        moved, kept = pdist(crop.positions), pdist(grid[crop.rows])
        np.testing.assert_allclose(moved, kept)


@pytest.mark.parametrize("tiles", [1, 3])
def test_a_slide_of_fewer_tiles_than_a_crop_needs_is_its_own_crop(tiles):
    grid = SQUARE[::50][:tiles]
    views = draw_views(grid, CropsConfig(min_tiles=4), 8, np.random.default_rng(0))
    for crop in (*views.global_crops, *views.local_crops):
        assert crop.rows.tolist() == list(range(tiles))


def test_positions_far_out_are_exact():
    far = SQUARE + 2**40
    views = [draw_views(g, CropsConfig(), 50, np.random.default_rng(1)) for g in (SQUARE, far)]
    for near, distant in zip(views[0].global_crops, views[1].global_crops, strict=True):
        assert np.array_equal(near.rows, distant.rows)
        assert np.array_equal(near.positions, distant.positions)


def test_local_crops_are_smaller_and_views_follow_the_seed():
    crops = CropsConfig()

    def sizes(seed):
        views = draw_views(SQUARE, crops, 1000, np.random.default_rng(seed))
        return [[len(c.rows) for c in part] for part in (views.global_crops, views.local_crops)]

    large, small = sizes(1)
    assert min(large) >= 10**2 >= max(small)
    assert sizes(1) == sizes(1) != sizes(2)
