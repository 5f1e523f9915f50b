import csv

import h5py
import numpy as np
import pytest
import torch

from interop.layout import layout_of
from interop.runs import Given
from slidemill.artifacts.digest import file_sha256
from slidemill.artifacts.parquet import read_footer, read_parquet
from slidemill.interop.clam import read_patches
from slidemill.interop.coordinates import pitch
from slidemill.interop.incoming import import_coordinates
from slidemill.interop.stage import export
from slidemill.tiles.trident import trident_geometry

SLIDE = "CMU-1-Small-Region"


def test_the_file_is_like_the_golden_one_to_the_dtype(shared, make_run, tmp_path):
    golden = shared / "golden" / f"clam_coords_{SLIDE}.h5"
    with h5py.File(golden) as file:
        kept = tuple(map(tuple, file["coords"][:].tolist()))
    run = make_run(Given(SLIDE, kept=kept))
    run.write(trident_geometry(256, 20, 0, 0.499))
    export(run.plan, "clam", tmp_path)
    without = {"save_path"}
    found = layout_of(tmp_path / "patches" / f"{SLIDE}.h5", without)
    assert found == layout_of(golden, without)


def test_the_golden_coordinates_are_imported(shared, make_run, tmp_path):
    golden = shared / "golden" / f"clam_coords_{SLIDE}.h5"
    (tmp_path / "clam" / "deep" / "patches").mkdir(parents=True)
    source = tmp_path / "clam" / "deep" / "patches" / f"{SLIDE}.h5"
    source.write_bytes(golden.read_bytes())
    run = make_run(Given(SLIDE))
    run.write_cohort()
    assert import_coordinates(run.plan, "clam", tmp_path / "clam", tmp_path / "out") == 1
    table = read_parquet(tmp_path / "out" / f"{SLIDE}.parquet", "coordinates")
    with h5py.File(golden) as file:
        assert np.array_equal(table.to_numpy(), file["coords"][:])
    assert len(table) == 50
    footer = read_footer(tmp_path / "out" / f"{SLIDE}.parquet")
    size = dict.fromkeys(("width", "height", "step_x", "step_y"), 256.0)
    assert footer["geometry"] == {"tile_px": 256, "mpp": 0.499, **size}
    assert footer["source"] == {"tool": "clam", "sha256": file_sha256(golden)}
    assert footer["slide_id"] == SLIDE


def test_a_run_comes_back_with_its_coordinates(make_run, tmp_path):
    run = make_run(Given("a", mpp_x=0.25, mpp_y=0.25, kept=((0, 0), (512, 0), (512, 1024))))
    run.write()
    export(run.plan, "clam", tmp_path / "job")
    import_coordinates(run.plan, "clam", tmp_path / "job" / "patches", tmp_path / "back")
    table = read_parquet(tmp_path / "back" / "a.parquet", "coordinates")
    assert table.to_numpy().tolist() == [[0, 0], [512, 0], [512, 1024]]
    geometry = read_footer(tmp_path / "back" / "a.parquet")["geometry"]
    assert (geometry["width"], geometry["tile_px"], geometry["mpp"]) == (512.0, 512, 0.25)


def test_features_are_there_as_hdf5_and_as_tensors(make_run, tmp_path):
    run = make_run(Given("a"), Given("b"))
    run.write()
    export(run.plan, "clam", tmp_path)
    expected = run.features_of(run.slides[0], 3)
    with h5py.File(tmp_path / "h5_files" / "a.h5") as file:
        assert np.array_equal(file["features"][:], expected)
        assert file["features"].dtype == np.float32
        assert file["features"].chunks == (32, 3)
        assert file["coords"].dtype == np.int32
        assert file["coords"].chunks == (32, 2)
        assert file["coords"][:].tolist() == [[0, 0], [256, 0], [0, 256]]
        assert not file["coords"].attrs
    tensor = torch.load(tmp_path / "pt_files" / "a.pt", weights_only=True)
    assert np.array_equal(tensor.numpy(), expected)
    with (tmp_path / "process_list_autogen.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["slide_id"] for row in rows] == ["a", "b"]
    assert {row["status"] for row in rows} == {"processed"}


def write_patches(path, coords, **attributes):
    given = {
        "patch_size": 256,
        "patch_level": 1,
        "downsample": np.array([4.0, 4.0]),
        "level_dim": np.array([1000, 800]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("coords", data=np.array(coords))
        dataset.attrs.update(given | attributes)
    return path


def test_the_tile_is_in_pixels_of_its_level(tmp_path):
    downsample = np.array([3.9896, 3.9912])
    path = write_patches(tmp_path / "a.h5", [[0, 0], [768, 0], [0, 768]], downsample=downsample)
    tiles = read_patches(path, 0.25)
    assert tiles.geometry.width == pytest.approx(256 * 3.9896)
    assert tiles.geometry.height == pytest.approx(256 * 3.9912)
    assert tiles.geometry.mpp == pytest.approx(0.25 * 3.9896)
    assert tiles.geometry.tile_px == 256
    # CLAM's step is int(downsample) times its step size: 768, although the tile has 1021 pixels.
    assert (tiles.geometry.step_x, tiles.geometry.step_y) == (768.0, 768.0)


def test_a_pyramid_level_that_ends_before_the_slide_is_its_own(make_run, tmp_path):
    run = make_run(Given("a", width=4003, height=3201))
    run.write_cohort()
    write_patches(tmp_path / "patches" / "a.h5", [[0, 0], [1024, 0]])
    assert import_coordinates(run.plan, "clam", tmp_path, tmp_path / "out") == 1


def test_the_pitch_is_that_within_lines_and_not_between_contours():
    first = [[x, y] for x in range(0, 1024, 256) for y in range(0, 768, 256)]
    # A second contour begins 3 pixels beside a column, and shares one row with the first.
    second = [[x, y] for x in range(2051, 2700, 256) for y in range(512, 1200, 256)]
    coords = np.array(first + second + [[1027, 512]])
    assert pitch(coords, 0) == 256
    assert pitch(coords, 1) == 256
    assert pitch(coords[:1], 0) is None
    assert pitch(np.array([[0, 0], [5, 7]]), 0) is None
