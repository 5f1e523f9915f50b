"""The scanned part of a canvas: who counts from which corner."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
import shapely
from shapely.geometry import box, mapping

from slidemill.artifacts import formats
from slidemill.artifacts.folder import StageId
from slidemill.artifacts.manifest import SlideTask
from slidemill.config import TissueConfig
from slidemill.errors import SlideError
from slidemill.interop.qupath import write_objects
from slidemill.interop.read import read_tissue
from slidemill.slides.bounds import bounds_of, stated_bounds
from slidemill.slides.identity import slide_fingerprint
from slidemill.slides.reader import Slide
from slidemill.tiles import candidates
from slidemill.tiles.grid import padded_fraction, tile_geometry
from slidemill.tissue import stage
from slidemill.tissue.classes import TissueClass
from slidemill.tissue.geojson import read_placed, read_polygons

STAGE = StageId("tissue", "t", formats.TISSUE, 1, {})
TISSUE = box(3200, 1900, 4800, 3400)


def properties(*values):
    keys = ("x", "y", "width", "height")
    return {f"openslide.bounds-{key}": str(v) for key, v in zip(keys, values, strict=True)}


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ((10, 20, 30, 40), (10, 20, 30, 40)),
        ((10, 20, 300, 400), (10, 20, 90, 60)),
        ((0, 0, 100, 80), None),
        ((200, 0, 10, 10), None),
        (("x", 0, 10, 10), None),
        ((0, 0, 0, 10), None),
    ],
)
def test_bounds_are_clipped_to_the_canvas_and_absurd_ones_ignored(stated, found):
    assert stated_bounds(properties(*stated), (100, 80)) == found


def test_a_row_without_bounds_is_all_scanned():
    assert bounds_of({"width": 5, "height": 4}) == (0, 0, 5, 4)


def test_what_was_not_scanned_counts_as_padding():
    geometry = tile_geometry(100, 1.0, 0, 1.0, 1.0)
    coords = np.array([[0, 0], [250, 200], [300, 200], [450, 200]], np.int64)
    found = padded_fraction(coords, geometry, 200, 100, (300, 200))
    np.testing.assert_allclose(found, [1.0, 0.5, 0.0, 0.5])


def run(shared, folder, config, tissue=None):
    path = shared / "cases" / "bounds" / "slide.scn"
    with Slide(path) as slide:
        reader, bounds = slide.reader, slide.bounds
    assert bounds == (3000, 1600, 2048, 2048)
    facts = {"slide_id": "s", "path": str(path), "fingerprint": slide_fingerprint(path)}
    facts |= {"reader": reader, "mpp_x": 0.5, "mpp_y": 0.5, "tissue": tissue and str(tissue)}
    task = SlideTask("s", facts, None, folder / "s.h5", STAGE.stamp("s", {}))
    return task.path, stage.compute(task, config, None)


def test_tissue_keeps_to_the_bounds_and_its_outlines_count_as_qupath(shared, tmp_path):
    path, _ = run(shared, tmp_path, TissueConfig())
    with h5py.File(path) as file:
        classes = file["classes"][:]
        scale = file.attrs["downsample_x"]
    rows, columns = np.nonzero(classes != TissueClass.GLASS)
    assert columns.min() * scale >= 3000
    assert rows.min() * scale >= 1600
    assert (columns.max() + 1) * scale <= 5048
    outlines = path.with_suffix(".geojson")
    assert json.loads(outlines.read_text())["slidemill"]["origin"] == [3000, 1600]
    united = shapely.union_all(read_polygons(outlines))
    assert united.equals(shapely.union_all(read_tissue(outlines)))
    assert box(3000, 1600, 5048, 3648).contains(united)


def test_what_qupath_draws_lands_where_it_was_drawn(shared, tmp_path):
    drawn = shared / "cases" / "bounds" / "qupath.geojson"
    path, result = run(shared, tmp_path, TissueConfig(method="import"), drawn)
    assert "QuPath" in result.remark
    assert shapely.union_all(read_polygons(path.with_suffix(".geojson"))).equals(TISSUE)
    written = json.loads(path.with_suffix(".geojson").read_text())["features"][0]["geometry"]
    assert shapely.geometry.shape(written).equals(box(200, 300, 1800, 1800))


def test_the_grid_begins_at_the_bounds_and_qupath_sees_round_numbers(shared, tmp_path):
    path, _ = run(shared, tmp_path, TissueConfig())
    facts = {"slide_id": "s", "path": "slide.scn", "width": 8000, "height": 6000}
    facts |= {"bounds_x": 3000, "bounds_y": 1600, "bounds_width": 2048, "bounds_height": 2048}
    facts |= {"mpp_x": 0.5, "mpp_y": 0.5}
    output = tmp_path / "tiles.parquet"
    task = SlideTask("s", facts, path, output, STAGE.stamp("s", {}))
    settings = candidates.GridSettings(256, 0.5, 0, "exact", "overview")
    candidates.compute(task, settings, None)
    table = pd.read_parquet(output)
    assert ((table["x"] - 3000) % 256 == 0).all()
    assert table["x"].between(3000, 5047).all()
    assert table["y"].between(1600, 3647).all()
    assert (table["padded_fraction"] == 0).all()
    geometry = tile_geometry(256, 0.5, 0, 0.5, 0.5)
    write_objects(tmp_path / "q.geojson", [], table[["x", "y"]], geometry, (3000, 1600))
    first = json.loads((tmp_path / "q.geojson").read_text())["features"][0]["geometry"]
    corner = [table["x"][0] - 3000, table["y"][0] - 1600]
    assert first["coordinates"][0][0] == corner


@pytest.mark.parametrize(
    ("members", "corner", "who"),
    [
        ({}, (30, 40), "QuPath"),
        ({"slidemill": {"origin": [5, 6]}}, (5, 6), "slidemill"),
        ({"slidemill": {}}, (0, 0), "slidemill"),
        (
            {"crs": {"properties": {"name": "urn:ogc:def:crs:EPSG::3857"}}},
            (0, 0),
            "TRIDENT",
        ),
    ],
)
def test_a_file_counts_from_the_corner_of_who_wrote_it(tmp_path, members, corner, who):
    feature = {"type": "Feature", "geometry": mapping(box(0, 0, 10, 10)), "properties": {}}
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]} | members))
    (polygon,), said = read_placed(path, (30, 40))
    assert polygon.bounds[:2] == corner
    assert who in said


def test_outlines_off_the_slide_say_from_where_they_were_counted(shared, tmp_path):
    feature = {"type": "Feature", "geometry": mapping(box(6000, 10, 7000, 90)), "properties": {}}
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(feature))
    with pytest.raises(SlideError, match=r"outside the slide.*as QuPath does"):
        run(shared, tmp_path, TissueConfig(method="import"), path)
