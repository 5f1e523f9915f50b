import json
import math
import time

import h5py
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import Polygon, box, shape

from slidemill.tiles.trident import (
    level0_magnification,
    nominal_magnification,
    touching,
    trident_geometry,
    trident_grid,
)


def golden_tissue(shared):
    text = (shared / "golden" / "trident_tissue_CMU-1-Small-Region.geojson").read_text()
    return [shape(feature["geometry"]) for feature in json.loads(text)["features"]]


@pytest.mark.parametrize(
    ("mpp", "magnification"),
    [(0.1599, 80), (0.16, 60), (0.2, 40), (0.2499, 40), (0.3, 20), (0.499, 20), (0.6, 10),
     (1.2, 5), (2.3999, 5)],
)  # fmt: skip
def test_magnifications_change_at_the_limits_of_the_table(mpp, magnification):
    assert level0_magnification(mpp) == magnification


@pytest.mark.parametrize("mpp", [2.4, 8.0, 0.0, -1.0, math.nan])
def test_beyond_the_table_the_error_says_what_to_use(mpp):
    with pytest.raises(ValueError, match=r"use tiles\.grid exact"):
        level0_magnification(mpp)


def test_nominal_magnifications_are_whole_where_they_are_meant_to_be():
    found = [nominal_magnification(10 / m) for m in (5, 10, 20, 40, 60, 80)]
    assert found == [5, 10, 20, 40, 60, 80]
    assert all(isinstance(value, int) for value in found)
    assert nominal_magnification(0.75) == pytest.approx(40 / 3)
    assert nominal_magnification(20.0) == 0.5


def test_the_golden_coordinates_in_their_order(shared):
    with h5py.File(shared / "golden" / "trident_coords_CMU-1-Small-Region.h5") as file:
        expected = file["coords"][:]
    geometry = trident_geometry(256, 20, 0, 0.499)
    coords = trident_grid(geometry, 2220, 2967)
    keep, fraction = touching(coords, geometry, golden_tissue(shared), 0.0)
    assert coords.dtype == np.int64
    assert coords[keep].tolist() == expected.tolist()
    assert len(expected) == 58
    assert geometry.mpp == pytest.approx(0.499)
    assert (fraction[~keep] == 0).all()


@pytest.mark.parametrize(
    ("mpp", "target", "um"), [(0.31, 20, 79.36), (0.59, 20, 151.04), (0.25, 20, 128.0)]
)
def test_the_true_field_of_256_px_at_20x_is_said(mpp, target, um):
    geometry = trident_geometry(256, target, 0, mpp)
    assert geometry.mpp * 256 == pytest.approx(um)
    assert geometry.width * mpp == pytest.approx(um)


mpps = st.floats(0.11, 2.39)
targets = st.sampled_from([5, 10, 13.5, 20, 40])


@settings(deadline=None)
@given(mpps, targets, st.integers(32, 300), st.data())
def test_sizes_and_grid_follow_the_rule_said_again(mpp, target, tile_px, data):
    overlap = data.draw(st.integers(0, tile_px // 2))
    width, height = data.draw(st.integers(1, 3000)), data.draw(st.integers(1, 3000))
    source = level0_magnification(mpp)
    size = round(tile_px * source / target)
    step = size - round(overlap * source / target)
    geometry = trident_geometry(tile_px, target, overlap, mpp)
    assert (geometry.width, geometry.height) == (size, size)
    assert (geometry.step_x, geometry.step_y) == (step, step)
    assert geometry.mpp == pytest.approx(size * mpp / tile_px)
    expected = []
    y = 0
    while y < height:
        x = 0
        while x < width:
            expected.append([x, y])
            x += step
        y += step
    assert trident_grid(geometry, width, height).tolist() == expected


def test_no_step_left_is_refused():
    with pytest.raises(ValueError, match="no step left"):
        trident_geometry(32, 80, 31, 1.3)


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.sampled_from([(0.25, 20), (0.5, 20), (0.5, 10)]),
)
def test_kept_tiles_and_fractions_follow_the_rule_said_again(seed, min_tissue, resolution):
    random = np.random.default_rng(seed)
    polygons = []
    for _ in range(random.integers(1, 5)):
        angles = np.sort(random.random(40)) * 2 * np.pi
        radii = random.uniform(100, 500, 40)
        corners = np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]
        polygons.append(shapely.make_valid(Polygon(corners + random.uniform(0, 2000, 2))))
    mpp, target = resolution
    geometry = trident_geometry(128, target, 16, mpp)
    coords = trident_grid(geometry, 2000, 1700)
    keep, fraction = touching(coords, geometry, polygons, min_tissue)
    tissue = shapely.union_all([p.simplify(32, preserve_topology=True) for p in polygons])
    for (x, y), kept, share in zip(coords.tolist(), keep, fraction, strict=True):
        tile = box(x, y, x + geometry.width, y + geometry.height)
        area = tile.intersection(tissue).area / tile.area
        assert share == pytest.approx(area, abs=1e-5)
        if min_tissue == 0:
            assert kept == tile.intersects(tissue)
        elif abs(area - min_tissue) > 1e-5:
            assert kept == (area >= min_tissue)


def test_a_tile_of_nothing_but_tissue_passes_a_limit_of_one():
    geometry = trident_geometry(100, 20, 0, 0.5)
    coords = trident_grid(geometry, 400, 100)
    keep, fraction = touching(coords, geometry, [box(0, 0, 250, 100)], 1.0)
    assert fraction.tolist() == [1.0, 1.0, 0.5, 0.0]
    assert keep.tolist() == [True, True, False, False]


def test_no_polygons_keep_nothing():
    geometry = trident_geometry(100, 20, 0, 0.5)
    keep, fraction = touching(trident_grid(geometry, 400, 100), geometry, [], 0.0)
    assert not keep.any()
    assert not fraction.any()


def test_thirty_thousand_tiles_take_seconds():
    angles = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    radii = 16000 + 3000 * np.sin(200 * angles)
    corners = np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None] + 22000
    geometry = trident_geometry(256, 20, 0, 0.5)
    coords = trident_grid(geometry, 44500, 44500)
    assert len(coords) > 30_000
    started = time.perf_counter()
    keep, fraction = touching(coords, geometry, [Polygon(corners)], 0.0)
    assert time.perf_counter() - started < 10
    whole = Polygon(corners).simplify(64, preserve_topology=True).area
    assert float(fraction.astype(np.float64).sum()) * 256**2 == pytest.approx(whole, rel=1e-4)
    assert keep.sum() > (fraction > 0).sum() * 0.99
