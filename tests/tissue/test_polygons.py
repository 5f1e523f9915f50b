import json

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from shapely.geometry import shape

from slidemill.tissue.polygons import mask_to_polygons, to_geojson


def blobs(seed, height=90, width=110):
    """A mask of smooth pieces with holes."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.standard_normal((height, width)), (0, 0), 4)
    return noise > np.quantile(noise, 0.55)


def rasterised(polygons, scale, form):
    """Pixels whose centres are inside."""
    y, x = np.mgrid[: form[0], : form[1]] + 0.5
    return shapely.contains_xy(shapely.union_all(polygons), x * scale[0], y * scale[1])


def test_a_square_with_a_hole_in_level_0_pixels():
    mask = np.zeros((40, 50), bool)
    mask[5:35, 10:40] = True
    mask[15:25, 20:30] = False
    (polygon,) = mask_to_polygons(mask, 16.0, 8.0, (800, 320))
    assert polygon.bounds == (160.0, 40.0, 640.0, 280.0)
    (hole,) = polygon.interiors
    assert hole.bounds == (320.0, 120.0, 480.0, 200.0)
    assert polygon.area == pytest.approx((30 * 30 - 10 * 10) * 16 * 8, rel=0.005)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 4), (9, 9)])
def test_one_pixel_is_a_square(row, column):
    mask = np.zeros((10, 10), bool)
    mask[row, column] = True
    (polygon,) = mask_to_polygons(mask, 2.0, 3.0, (20, 30))
    assert polygon.bounds == (2 * column, 3 * row, 2 * column + 2, 3 * row + 3)
    assert polygon.area == 6


def test_polygons_end_with_the_slide():
    (polygon,) = mask_to_polygons(np.ones((10, 10), bool), 16.0, 16.0, (155, 150))
    assert polygon.bounds == (0.0, 0.0, 155.0, 150.0)


def test_no_tissue_no_polygons_and_order_from_the_top():
    assert mask_to_polygons(np.zeros((9, 9), bool), 2, 2, (18, 18)) == []
    mask = np.zeros((60, 60), bool)
    mask[40:50, 5:15] = mask[10:20, 30:40] = mask[10:20, 5:15] = True
    corners = [p.bounds[:2] for p in mask_to_polygons(mask, 1, 1, (60, 60))]
    assert corners == [(5, 10), (30, 10), (5, 40)]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.floats(0.5, 40.0),
    st.floats(0.5, 40.0),
)
def test_polygons_give_the_mask_back(seed, scale_x, scale_y):
    mask = blobs(seed)
    bounds = (10**6, 10**6)
    polygons = mask_to_polygons(mask, scale_x, scale_y, bounds)
    assert all(p.is_valid and p.geom_type == "Polygon" for p in polygons)
    back = rasterised(polygons, (scale_x, scale_y), mask.shape)
    assert (back & mask).sum() / (back | mask).sum() > 0.95
    assert sum(p.area for p in polygons) == pytest.approx(mask.sum() * scale_x * scale_y, rel=0.02)
    # What differs lies at the mask's edge.
    core = cv2.erode(mask.astype(np.uint8), np.ones((3, 3)), borderValue=0) > 0
    near = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))) > 0
    assert back[core].all()
    assert not back[~near].any()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_pieces_and_holes_are_those_of_the_mask(seed):
    mask = blobs(seed)
    pieces, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    outside, _, sizes, _ = cv2.connectedComponentsWithStats(
        np.pad(~mask, 1, constant_values=True).astype(np.uint8), connectivity=4
    )
    # Thin necks and specks may part or go in the simplification.
    assume(stats[1:, cv2.CC_STAT_AREA].min() > 12 and sizes[1:, cv2.CC_STAT_AREA].min() > 12)
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2)))
    assume((opened > 0).sum() > 0.99 * mask.sum())
    polygons = mask_to_polygons(mask, 4, 4, (440, 360))
    assert abs(len(polygons) - (pieces - 1)) <= 1
    assert abs(sum(len(p.interiors) for p in polygons) - (outside - 2)) <= 1


@settings(max_examples=40, deadline=None)
@given(arrays(bool, (12, 14), elements=st.booleans()))
def test_any_mask_gives_valid_polygons(mask):
    polygons = mask_to_polygons(mask, 3.5, 2.5, (49, 30))
    assert all(polygon.is_valid and polygon.area > 0 for polygon in polygons)
    total = sum(polygon.area for polygon in polygons)
    assert abs(total - mask.sum() * 3.5 * 2.5) <= 0.5 * 12 * 14 * 3.5 * 2.5
    assert bool(polygons) == bool(mask.any())


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.25, 0.5, 1.0]))
def test_areas_in_mm2_do_not_depend_on_the_slides_resolution(seed, mpp):
    mask = blobs(seed)
    polygons = mask_to_polygons(mask, 8 / mpp, 8 / mpp, (10**6, 10**6))
    features = json.loads(to_geojson(polygons, mpp, mpp, {}))["features"]
    total = sum(feature["properties"]["area_mm2"] for feature in features)
    assert total == pytest.approx(mask.sum() * 64e-6, rel=0.02)


def test_geojson_is_what_qupath_takes():
    mask = np.zeros((9, 9), bool)
    mask[1:4, 1:4] = mask[6:8, 6:8] = True
    text = to_geojson(mask_to_polygons(mask, 10, 10, (90, 90)), 0.5, 0.5, {"digest": "d"})
    collection = json.loads(text)
    assert collection["type"] == "FeatureCollection"
    assert collection["slidemill"] == {"digest": "d"}
    first = collection["features"][0]
    assert first["properties"]["objectType"] == "annotation"
    assert first["properties"]["area_mm2"] == 900 * 0.25 / 1e6
    assert shape(first["geometry"]).bounds == (10, 10, 40, 40)
