import json
import logging

import h5py
import numpy as np
import pytest
from shapely.geometry import shape

from interop.layout import layout_of
from interop.runs import HOLE, Given
from slidemill.artifacts.parquet import read_footer, read_parquet
from slidemill.interop.incoming import import_coordinates
from slidemill.interop.read import ExportError
from slidemill.interop.stage import export
from slidemill.interop.trident import folder_name
from slidemill.tiles.trident import trident_geometry

SLIDE = "CMU-1-Small-Region"
FOLDER = "20x_256px_0px_overlap"


def golden_coords(shared, name):
    with h5py.File(shared / "golden" / name) as file:
        return tuple(map(tuple, file["coords"][:].tolist()))


def test_the_files_are_like_the_golden_ones_to_the_dtype(shared, make_run, tmp_path):
    patches = shared / "golden" / f"trident_coords_{SLIDE}.h5"
    features = shared / "golden" / f"trident_features_rgbmean_{SLIDE}.h5"
    run = make_run(Given(SLIDE, kept=golden_coords(shared, patches.name)), grid="trident")
    run.write(trident_geometry(256, 20, 0, 0.499))
    assert export(run.plan, "trident", tmp_path / "out") == 1
    ours = tmp_path / "out" / FOLDER
    without = {"savetodir"}
    mine = layout_of(ours / "patches" / f"{SLIDE}_patches.h5", without)
    assert mine == layout_of(patches, without)
    found = layout_of(ours / "features_rgb-mean" / f"{SLIDE}.h5", without, values={"coords"})
    expected = layout_of(features, without, values={"coords"})
    assert expected["features"]["attributes"].pop("encoder")[2] == "rgbmean"
    assert found["features"]["attributes"].pop("encoder")[2] == "rgb-mean"
    assert found == expected
    with h5py.File(ours / "features_rgb-mean" / f"{SLIDE}.h5") as file:
        assert np.array_equal(file["features"][:], run.features_of(run.slides[0], 3))


def test_the_tissue_goes_with_it_holes_and_all(shared, make_run, tmp_path):
    golden = json.loads((shared / "golden" / f"trident_tissue_{SLIDE}.geojson").read_text())
    run = make_run(Given(SLIDE))
    run.write()
    export(run.plan, "trident", tmp_path)
    found = json.loads((tmp_path / "contours_geojson" / f"{SLIDE}.geojson").read_text())
    assert {key: found[key] for key in ("type", "name", "crs")} == {
        key: golden[key] for key in ("type", "name", "crs")
    }
    assert [feature["properties"] for feature in found["features"]] == [{"tissue_id": 0}]
    polygon = shape(found["features"][0]["geometry"])
    assert [sorted(set(ring.coords)) for ring in polygon.interiors] == [sorted(HOLE)]


@pytest.mark.parametrize(
    ("mpp", "target", "overlap", "level0"),
    [(0.499, 20, 0, 20), (0.25, 20, 32, 40), (1.1, 5, 8, 10)],
)
def test_a_trident_run_comes_back_as_it_was(make_run, tmp_path, mpp, target, overlap, level0):
    geometry = trident_geometry(256, target, overlap, mpp)
    step = int(geometry.step_x)
    kept = ((0, 0), (step, 0), (3 * step, step))
    run = make_run(
        Given("a", mpp_x=mpp, mpp_y=mpp, kept=kept, width=5 * step, height=2 * step),
        Given("b", mpp_x=mpp, mpp_y=mpp, kept=kept[:1], width=5 * step, height=2 * step),
        grid="trident",
        magnification=target,
        overlap_px=overlap,
    )
    run.write(geometry)
    export(run.plan, "trident", tmp_path / "job")
    file = tmp_path / "job" / folder_name(target, 256, overlap) / "patches" / "a_patches.h5"
    with h5py.File(file) as opened:
        attributes = dict(opened["coords"].attrs)
    assert attributes["level0_magnification"] == level0
    assert attributes["target_magnification"] == target
    assert attributes["overlap"] == overlap
    assert import_coordinates(run.plan, "trident", tmp_path / "job", tmp_path / "back") == 2
    table = read_parquet(tmp_path / "back" / "a.parquet", "coordinates")
    assert tuple(map(tuple, table.to_numpy().tolist())) == kept
    assert read_footer(tmp_path / "back" / "a.parquet")["geometry"] == geometry.as_dict()


def test_an_imported_tiling_is_exported_under_its_old_name(make_run, tmp_path):
    run = make_run(Given("a"), grid="import", coordinates=".")
    run.write(trident_geometry(256, 20, 64, 0.499))
    export(run.plan, "trident", tmp_path / "job")
    file = tmp_path / "job" / "20x_256px_64px_overlap" / "patches" / "a_patches.h5"
    with h5py.File(file) as opened:
        attributes = opened["coords"].attrs
        assert attributes["target_magnification"].dtype == np.int64


def test_names_of_magnifications_that_are_not_whole():
    assert folder_name(20, 224, 16) == "20x_224px_16px_overlap"
    assert folder_name(10 / 0.75, 256, 0) == "13.3333x_256px_0px_overlap"
    assert folder_name(2.5, 256, 0) == "2.5x_256px_0px_overlap"


def test_a_field_that_trident_would_read_otherwise_is_said(make_run, tmp_path, caplog):
    run = make_run(Given("fine"), Given("between", mpp_x=0.31, mpp_y=0.31))
    run.write()
    with caplog.at_level(logging.WARNING):
        assert export(run.plan, "trident", tmp_path) == 2
    assert "1 slides have tiles that trident would not read" in caplog.text
    assert caplog.text.rstrip().endswith(": between")
    with h5py.File(tmp_path / FOLDER / "patches" / "between_patches.h5") as file:
        assert file["coords"].attrs["patch_size_level0"] == round(256 * 0.5 / 0.31)


def test_what_trident_cannot_say_is_refused_and_the_rest_is_written(make_run, tmp_path):
    run = make_run(
        Given("fine"), Given("coarse", mpp_x=2.5, mpp_y=2.5), Given("oblong", mpp_x=0.25)
    )
    run.write()
    with pytest.raises(ExportError, match="the other 1 slides are written") as caught:
        export(run.plan, "trident", tmp_path / "out")
    assert [problem.where for problem in caught.value.problems] == ["coarse", "oblong"]
    assert "no magnification for 2.5 um" in caught.value.problems[0].what
    assert "512 x 257" in caught.value.problems[1].what
    written = [path.name for path in (tmp_path / "out").rglob("*_patches.h5")]
    assert written == ["fine_patches.h5"]


def test_a_scanner_that_is_off_by_less_than_a_percent_is_no_fault(make_run, tmp_path):
    run = make_run(Given("a", mpp_x=0.25, mpp_y=0.2515))
    run.write()
    assert export(run.plan, "trident", tmp_path) == 1
    with h5py.File(tmp_path / FOLDER / "patches" / "a_patches.h5") as file:
        assert file["coords"].attrs["patch_size_level0"] == 512
