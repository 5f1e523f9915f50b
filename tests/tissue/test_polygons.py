import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from shapely.geometry import shape

from slidemill.tissue.polygons import mask_to_polygons, to_geojson


def test_a_square_with_a_hole_in_level_0_pixels():
    mask = np.zeros((40, 50), bool)
    mask[5:35, 10:40] = True
    mask[15:25, 20:30] = False
    (polygon,) = mask_to_polygons(mask, 16.0, 8.0, (800, 320))
    assert polygon.bounds == (160.0, 40.0, 640.0, 280.0)
    assert len(polygon.interiors) == 1
    assert polygon.area == (30 * 30 - 10 * 10) * 16 * 8


def test_polygons_end_with_the_slide():
    (polygon,) = mask_to_polygons(np.ones((10, 10), bool), 16.0, 16.0, (155, 150))
    assert polygon.bounds == (0.0, 0.0, 155.0, 150.0)


@settings(max_examples=40, deadline=None)
@given(arrays(bool, (12, 14), elements=st.booleans()))
def test_polygons_are_valid_and_disjoint(mask):
    polygons = mask_to_polygons(mask, 3.5, 2.5, (49, 30))
    assert all(polygon.is_valid and polygon.area > 0 for polygon in polygons)
    total = sum(polygon.area for polygon in polygons)
    assert abs(total - mask.sum() * 3.5 * 2.5) <= 0.5 * 12 * 14 * 3.5 * 2.5
    assert bool(polygons) == bool(mask.any())


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
