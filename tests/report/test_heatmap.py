import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text
from scipy.stats import percentileofscore

from slidemill.evaluate.figures.style import DPI, png_of
from slidemill.report.figures import attention_overlay
from slidemill.report.heatmap import (
    attention_heat,
    heat_of,
    heatmap_figure,
    paint,
    percentiles,
    tile_boxes,
)
from slidemill.tiles.grid import exact_grid, tile_geometry


@settings(deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30))
def test_percentiles_are_scipys_among_the_other_tiles(weights: list[float]) -> None:
    values = np.array(weights, np.float32)
    found = percentiles(values)
    others = [np.delete(values, i) for i in range(len(values))]
    expected = [percentileofscore(o, v, "mean") for o, v in zip(others, values, strict=True)]
    assert found == pytest.approx(expected if len(values) > 1 else [50.0])
    assert found.mean() == pytest.approx(50.0)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 999), st.integers(1, 25))
def test_heat_is_the_mean_over_tiles_that_cover_a_pixels_centre(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-10, 40, (n, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1.5, 20, (n, 2))], axis=1)
    values = rng.random(n)
    found = heat_of((30, 35), boxes, values)
    y, x = np.mgrid[:30, :35] + 0.5
    inside = [
        (left <= x) & (x < right) & (top <= y) & (y < bottom) for left, top, right, bottom in boxes
    ]
    count = np.sum(inside, axis=0)
    total = np.sum([value * mask for value, mask in zip(values, inside, strict=True)], axis=0)
    assert np.array_equal(np.isfinite(found), count > 0)
    assert found[count > 0] == pytest.approx((total / np.maximum(count, 1))[count > 0], abs=1e-9)


def test_a_tile_that_is_smaller_than_a_pixel_is_seen() -> None:
    found = heat_of((4, 4), np.array([[1.6, 2.0, 1.7, 2.2]]), np.array([7.0]))
    assert np.argwhere(np.isfinite(found)).tolist() == [[2, 2]]


@pytest.mark.parametrize("mpp", [0.499, 0.2271, 0.253])
@pytest.mark.parametrize("scale", [1.0, 2.47, 7.3])
def test_there_are_no_gaps_between_neighbours(mpp: float, scale: float) -> None:
    geometry = tile_geometry(64, 0.5, 0, mpp, mpp)
    coords = exact_grid(geometry, 1500, 1200)
    height, width = int(1200 / scale), int(1500 / scale)
    heat = heat_of((height, width), tile_boxes(coords, geometry, scale), np.ones(len(coords)))
    assert np.isfinite(heat).all()


def test_colours_are_pale_without_heat_and_blue_to_yellow_with_it() -> None:
    pixels = np.full((2, 3, 3), 200, np.uint8)
    painted = paint(pixels, np.array([[0.0, 50.0, 100.0], [np.nan] * 3])).astype(int)
    assert (painted[1] == 227).all()
    low, _, high = painted[0]
    assert low[2] > low[0] > low[1]
    assert min(high[:2]) > high[2]
    assert (np.diff(painted[0].sum(axis=1)) > 0).all()


def test_ranks_alone_give_the_colours() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
    boxes = np.array([[0, 0, 20, 20], [10, 10, 30, 30], [25, 0, 50, 40.0]])
    weights = np.array([1e-9, 0.2, 0.8])
    painted = attention_heat(pixels, boxes, weights)
    assert np.array_equal(painted, attention_heat(pixels, boxes, np.array([1, 2, 3.0])))
    assert attention_overlay(pixels, boxes, weights).startswith(b"\xff\xd8")


def test_the_figure_shows_every_pixel_once() -> None:
    rng = np.random.default_rng(0)
    painted = rng.integers(0, 255, (650, 700, 3), dtype=np.uint8)
    figure = heatmap_figure(painted, "slide_1$\nabmil on uni, 9 tiles")
    axes = figure.axes[0]
    box = axes.get_window_extent()
    assert box.width * DPI / figure.dpi == pytest.approx(700)
    assert box.height * DPI / figure.dpi == pytest.approx(650)
    assert "slide_1$\nabmil on uni, 9 tiles" in [t.get_text() for t in figure.findobj(Text)]
    assert png_of(figure) == png_of(heatmap_figure(painted, "slide_1$\nabmil on uni, 9 tiles"))


def test_small_slides_are_enlarged_by_whole_pixels() -> None:
    figure = heatmap_figure(np.zeros((130, 250, 3), np.uint8), "a")
    box = figure.axes[0].get_window_extent()
    assert box.width * DPI / figure.dpi == pytest.approx(500)
    assert figure.get_size_inches()[0] >= 5.0
