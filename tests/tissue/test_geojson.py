import json
import math

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Polygon, box, mapping, shape

from slidemill.errors import SlideCode, SlideError
from slidemill.tissue import geojson
from slidemill.tissue.geojson import check_bounds, rasterise, read_polygons
from slidemill.tissue.polygons import mask_to_polygons, to_geojson

SQUARE = box(10, 20, 110, 220)


def feature(geometry, name=None, kind="annotation", **more):
    """A feature as QuPath 0.4 and later write it."""
    properties = {"objectType": kind} if kind else {}
    if name is not None:
        properties["classification"] = {"name": name, "color": [200, 0, 0]}
    geometry = geometry if isinstance(geometry, dict) else mapping(geometry)
    return {
        "type": "Feature",
        "id": "b2a9b8f2-3c0c-4f0e-a3c1-2c4b0c5d8d11",
        "geometry": geometry,
        "properties": properties | more,
    }


def collection(*features):
    return {"type": "FeatureCollection", "features": list(features)}


@pytest.fixture
def read(tmp_path):
    def write_and_read(document):
        path = tmp_path / "tissue.geojson"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return read_polygons(path)

    return write_and_read


@pytest.mark.parametrize(
    "document",
    [
        collection(feature(SQUARE)),
        [feature(SQUARE)],
        feature(SQUARE),
        mapping(SQUARE),
        {"type": "GeometryCollection", "geometries": [mapping(SQUARE)]},
        feature(MultiPolygon([SQUARE])),
        feature(SQUARE, kind=None, tissue_id=0),
        feature(SQUARE, "Tissue"),
        feature(SQUARE, "Tumor: Positive"),
        feature(SQUARE, isEllipse=True, isLocked=False),
        feature(SQUARE, kind=None, classification="Stroma"),
        feature(SQUARE, kind=None, object_type="annotation"),
        {**feature(SQUARE, kind=None), "id": "PathAnnotationObject"},
    ],
)
def test_every_form_of_the_same_square(read, document):
    assert read(document) == [SQUARE]


def test_a_third_dimension_an_open_ring_and_a_byte_order_mark(read):
    open_ring = [[10, 20, 1], [110, 20, 1], [110, 220, 1], [10, 220, 1]]
    text = json.dumps({"type": "Polygon", "coordinates": [open_ring]})
    (polygon,) = read("\ufeff" + text)
    assert not polygon.has_z
    assert polygon.equals(SQUARE)


@pytest.mark.parametrize("kind", ["detection", "cell", "tile", "tma_core", "root"])
def test_objects_that_are_no_annotations_do_not_count(read, kind):
    assert read(collection(feature(box(0, 0, 9, 9), kind=kind), feature(SQUARE))) == [SQUARE]


def test_cells_of_an_old_qupath_do_not_count(read):
    cell = {**feature(box(0, 0, 9, 9), kind=None), "id": "PathCellObject"}
    assert read([cell, feature(SQUARE)]) == [SQUARE]


def test_points_lines_and_training_regions_do_not_count(read):
    line = {"type": "LineString", "coordinates": [[0, 0], [5, 5]]}
    point = {"type": "Point", "coordinates": [3, 3]}
    region = feature(box(0, 0, 999, 999), "Region*")
    document = collection(feature(line), feature(point), feature(None or {}), region)
    document["features"].append(feature(SQUARE))
    assert read(document) == [SQUARE]


@pytest.mark.parametrize("name", ["Ignore*", "Other", "ARTIFACT", "Pen", "Background", "Hole: big"])
def test_other_classes_are_cut_out(read, name):
    far = box(500, 500, 600, 600)
    (left, kept) = read([feature(SQUARE), feature(box(10, 20, 60, 300), name), feature(far)])
    assert left.equals(box(60, 20, 110, 220))
    assert kept == far


def test_what_is_cut_out_of_the_middle_becomes_a_hole_and_across_makes_two(read):
    (ring,) = read([feature(SQUARE), feature(box(50, 50, 60, 60), "Hole")])
    assert ring.area == SQUARE.area - 100
    assert len(ring.interiors) == 1
    parts = read([feature(SQUARE), feature(box(0, 50, 200, 60), "Pen")])
    assert sorted(part.area for part in parts) == [3000, 16000]


def test_the_names_list_of_a_derived_class(read):
    pen = feature(box(0, 0, 60, 300), kind="annotation")
    pen["properties"]["classification"] = {"names": ["Pen", "blue"]}
    (left,) = read([feature(SQUARE), pen])
    assert left.bounds == (60, 20, 110, 220)


def test_overlapping_polygons_stay_as_they_are(read):
    other = box(50, 50, 300, 300)
    assert read([feature(SQUARE), feature(other)]) == [SQUARE, other]


def test_a_bow_tie_and_a_spike_are_made_valid(read):
    bow_tie = Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    spike = Polygon([(0, 0), (10, 0), (10, 10), (20, 10), (10, 10), (0, 10)])
    parts = read([feature(bow_tie), feature(spike)])
    assert [part.area for part in parts] == [25, 25, 100]
    assert all(part.is_valid for part in parts)


def test_parts_without_area_are_dropped(read):
    flat = {"type": "Polygon", "coordinates": [[[0, 0], [5, 5], [0, 0]]]}
    dot = {"type": "Polygon", "coordinates": [[[1, 1], [1, 1], [1, 1], [1, 1]]]}
    empty = {"type": "Polygon", "coordinates": []}
    assert read([feature(flat), feature(dot), feature(empty), feature(SQUARE)]) == [SQUARE]


def test_trident_polygons_are_read_exactly_and_in_order(shared):
    path = shared / "golden" / "trident_tissue_CMU-1-Small-Region.geojson"
    polygons = read_polygons(path)
    features = json.loads(path.read_text())["features"]
    assert [f["properties"]["tissue_id"] for f in features] == [0, 1]
    for polygon, stored in zip(polygons, features, strict=True):
        exact = np.asarray(shape(stored["geometry"]).exterior.coords)
        assert np.array_equal(shapely.get_coordinates(polygon), exact)
    check_bounds(polygons, (2220, 2967))
    mask = rasterise(polygons, 8, 8, 278, 371)
    assert mask.sum() * 64 == pytest.approx(sum(p.area for p in polygons), rel=0.005)
    with pytest.raises(SlideError, match=r"2 of 2 .* outside the slide of 150 x 50 px"):
        check_bounds(polygons, (150, 50))


def test_our_own_polygons_come_back_exactly(read):
    mask = np.zeros((60, 50), bool)
    mask[5:35, 10:40] = mask[45:50, 3:9] = True
    mask[15:25, 20:30] = False
    polygons = mask_to_polygons(mask, 15.87, 16.13, (790, 960))
    assert read(to_geojson(polygons, 0.5, 0.5, {"digest": "d"})) == polygons
    assert np.array_equal(rasterise(polygons, 15.87, 16.13, 50, 60), mask)


@pytest.mark.parametrize(
    ("document", "cause"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("{'type': 1}", "not JSON"),
        ("[" * 100_000, "not JSON|nested"),
        ("[" + "9" * 5000 + "]", "not JSON"),
        ({"type": "Topology"}, "not GeoJSON"),
        ([1, 2], "not GeoJSON"),
        ({"type": "FeatureCollection", "features": None}, "not GeoJSON"),
        (collection(), "no tissue polygons"),
        (collection(feature(SQUARE, kind="cell")), r"no tissue polygons \(0 .* 1 features"),
        (collection(feature(SQUARE, "Pen")), r"no tissue polygons \(1 "),
        ([feature(SQUARE), feature(SQUARE.buffer(5), "Pen")], "cover all tissue"),
        ({"type": "Polygon", "coordinates": [[["1", "2"], ["3", "4"], ["5", "6"]]]}, "numbers"),
        ({"type": "Polygon", "coordinates": [[[1, 2], [3], [5, 6]]]}, "numbers"),
        ({"type": "Polygon", "coordinates": [[[1, 2], [3, None], [5, 6]]]}, "numbers"),
        ({"type": "Polygon", "coordinates": [[1, 2, 3]]}, "numbers"),
        ({"type": "Polygon", "coordinates": 7}, "no list of coordinates"),
        ('{"type": "Polygon", "coordinates": [[[1, 2], [3, NaN], [5, 6]]]}', "not finite"),
    ],
)
def test_a_file_that_is_no_tissue_fails_in_one_line(read, document, cause):
    with pytest.raises(SlideError, match=cause) as caught:
        read(document)
    assert caught.value.code is SlideCode.TISSUE_FILE
    assert "\n" not in str(caught.value)
    assert "tissue.geojson" in str(caught.value)
    assert not str(caught.value).endswith(":")


def test_missing_folders_binary_and_too_large_files(tmp_path, monkeypatch):
    with pytest.raises(SlideError, match="No such file"):
        read_polygons(tmp_path / "none.geojson")
    with pytest.raises(SlideError, match="not readable"):
        read_polygons(tmp_path)
    packed = tmp_path / "packed.geojson"
    packed.write_bytes(b"\x1f\x8b\x08\xff\xfe")
    with pytest.raises(SlideError, match="no UTF-8 text"):
        read_polygons(packed)
    monkeypatch.setattr(geojson, "MAX_BYTES", 4)
    with pytest.raises(SlideError, match="annotations only"):
        read_polygons(packed)


def test_a_polygon_that_overhangs_the_slide_is_on_it():
    check_bounds([box(-50, -50, 10, 10)], (100, 100))
    with pytest.raises(SlideError, match=r"1 of 2 .* x 101 to 120, y 5 to 9.* level 0") as caught:
        check_bounds([SQUARE, box(101, 5, 120, 9)], (100, 100))
    assert caught.value.code is SlideCode.TISSUE_FILE


def test_a_pixel_is_set_when_its_centre_is_inside():
    mask = rasterise([box(1.5, 0.4, 3.51, 2.5)], 1, 1, 5, 4)
    assert np.argwhere(mask).tolist() == [[y, x] for y in (0, 1) for x in (1, 2, 3)]
    assert not rasterise([box(1.51, 0.51, 2.49, 3.0)], 1, 1, 5, 4).any()
    assert rasterise([box(-9, -9, 99, 99)], 3, 7, 5, 4).all()
    assert not rasterise([box(-9, -9, -1, 99), Polygon()], 3, 7, 5, 4).any()
    assert not rasterise([box(500, 0, 600, 99)], 3, 7, 5, 4).any()


CORNERS = st.lists(
    st.tuples(st.floats(-20, 80), st.floats(-20, 80)), min_size=3, max_size=12, unique=True
)


@settings(max_examples=60, deadline=None)
@given(CORNERS, CORNERS, st.floats(0.5, 3), st.floats(0.5, 3))
def test_a_raster_agrees_with_shapely_at_every_centre(outline, hole, dx, dy):
    solid = shapely.make_valid(Polygon(outline)).difference(shapely.make_valid(Polygon(hole)))
    polygons = [p for p in shapely.get_parts(solid) if isinstance(p, Polygon) and p.area > 1e-6]
    mask = rasterise(polygons, dx, dy, 31, 23)
    y, x = np.mgrid[:23, :31]
    points = shapely.points((x + 0.5) * dx, (y + 0.5) * dy)
    union = shapely.union_all(polygons)
    clear = shapely.distance(points, union.boundary) > 1e-6 if polygons else np.True_
    assert np.array_equal(mask & clear, shapely.contains(union, points) & clear)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(3, 40),
    st.floats(20, 200),
    st.floats(0.5, 4),
    st.floats(0.5, 4),
    st.floats(0, 0.8),
)
def test_the_area_of_a_raster_is_that_of_the_polygon(corners, radius, dx, dy, hole):
    angles = np.linspace(0, 2 * math.pi, corners, endpoint=False) + 0.1
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius + 210
    holes = [(circle - 210) * hole + 210] if hole > 0.1 else []
    polygon = Polygon(circle, holes)
    mask = rasterise([polygon], dx, dy, math.ceil(420 / dx), math.ceil(420 / dy))
    # Only pixels that the outline passes through can be wrong.
    assert abs(mask.sum() * dx * dy - polygon.area) <= polygon.length * max(dx, dy)


def test_neighbours_share_no_pixel_and_leave_none_out():
    corners = [(0.0, 0.0), (37.3, 5.1), (40.0, 40.0), (3.3, 31.7)]
    middle = (17.7, 19.3)
    fan = [Polygon([corners[i], corners[(i + 1) % 4], middle]) for i in range(4)]
    parts = sum(rasterise([p], 1, 1, 42, 42).astype(int) for p in fan)
    assert np.array_equal(parts, rasterise([Polygon(corners)], 1, 1, 42, 42))
