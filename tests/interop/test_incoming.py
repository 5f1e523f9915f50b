import logging
import shutil

import h5py
import numpy as np
import pytest

from interop.runs import Given
from slidemill.artifacts.parquet import read_footer, read_parquet
from slidemill.errors import ArtifactError
from slidemill.interop.incoming import import_coordinates
from slidemill.interop.read import ImportCoordinatesError

GOOD = {
    "patch_size": 256,
    "patch_size_level0": 512,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 0,
    "level0_width": 2220,
    "level0_height": 2967,
    "name": "a",
}


def write_patches(path, coords=((0, 0), (512, 0)), without=(), **attributes):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("coords", data=np.array(coords))
        kept = {key: value for key, value in (GOOD | attributes).items() if key not in without}
        dataset.attrs.update(kept)
    return path


@pytest.fixture
def run(make_run):
    made = make_run(Given("a", mpp_x=0.25), Given("b", mpp_x=0.25))
    made.write_cohort()
    return made


def test_floats_are_as_good_as_ints_and_the_order_stays(run, tmp_path):
    coords = np.array([[512, 0], [0, 0]], np.float64)
    write_patches(
        tmp_path / "job" / "20x" / "patches" / "a_patches.h5",
        coords,
        patch_size=np.float64(256),
        patch_size_level0=np.float64(512),
        target_magnification=np.float64(20),
        overlap=np.float64(32),
    )
    assert import_coordinates(run.plan, "trident", tmp_path / "job", tmp_path / "out") == 1
    table = read_parquet(tmp_path / "out" / "a.parquet", "coordinates")
    assert table.to_numpy().tolist() == [[512, 0], [0, 0]]
    assert table["x"].dtype == np.int64
    geometry = read_footer(tmp_path / "out" / "a.parquet")["geometry"]
    assert geometry == {
        "tile_px": 256,
        "mpp": 0.5,
        "width": 512.0,
        "height": 512.0,
        "step_x": 448.0,
        "step_y": 448.0,
    }


def test_the_true_resolution_is_kept_and_not_the_nominal_one(make_run, tmp_path):
    run = make_run(Given("a", mpp_x=0.31, mpp_y=0.31))
    run.write_cohort()
    write_patches(tmp_path / "a_patches.h5", patch_size_level0=256, level0_magnification=20)
    import_coordinates(run.plan, "trident", tmp_path, tmp_path / "out")
    assert read_footer(tmp_path / "out" / "a.parquet")["geometry"]["mpp"] == pytest.approx(0.31)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level0_width": 2221}, "a slide of 2221 x 2967 pixels, the cohort's has 2220 x 2967"),
        ({"coords": [[0, 0], [2220, 0]]}, "1 of 2 tiles begin outside"),
        ({"coords": [[-1, 0]]}, "1 of 1 tiles begin outside"),
        ({"coords": [[0, 0], [0, 0]]}, "there twice"),
        ({"coords": [[0.5, 0.0]]}, "not whole"),
        ({"coords": [[np.nan, 0.0]]}, "not whole"),
        ({"coords": [[0, 0, 1]]}, "the shape"),
        ({"without": ["patch_size_level0"]}, "no attribute patch_size_level0"),
        ({"patch_size": "256"}, "not a number"),
        ({"patch_size": 256.5}, "not a whole number"),
        ({"patch_size_level0": 0}, "are no tile"),
        ({"overlap": 256}, "are no tile"),
    ],
)
def test_what_does_not_fit_is_said_with_its_place(run, tmp_path, change, message):
    path = write_patches(tmp_path / "a_patches.h5", **change)
    write_patches(tmp_path / "b_patches.h5")
    with pytest.raises(ImportCoordinatesError) as caught:
        import_coordinates(run.plan, "trident", tmp_path, tmp_path / "out")
    (problem,) = caught.value.problems
    assert problem.where == str(path)
    assert message in problem.what
    assert "the other 1 slides are written" in str(caught.value)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["b.parquet"]


def test_all_faults_are_said_at_once_and_leave_no_older_table(run, tmp_path):
    write_patches(tmp_path / "a_patches.h5")
    import_coordinates(run.plan, "trident", tmp_path, tmp_path / "out")
    (tmp_path / "a_patches.h5").write_bytes(b"torn")
    write_patches(tmp_path / "b_patches.h5", level0_height=1)
    with pytest.raises(ImportCoordinatesError) as caught:
        import_coordinates(run.plan, "trident", tmp_path, tmp_path / "out")
    first, second = caught.value.problems
    assert "not readable as HDF5" in first.what
    assert "2220 x 1 pixels" in second.what
    assert not list((tmp_path / "out").iterdir())


def test_two_files_of_a_slide_are_both_named(run, tmp_path):
    one = write_patches(tmp_path / "20x" / "patches" / "a_patches.h5")
    other = write_patches(tmp_path / "10x" / "patches" / "a_patches.h5")
    with pytest.raises(ImportCoordinatesError) as caught:
        import_coordinates(run.plan, "trident", tmp_path, tmp_path / "out")
    (problem,) = caught.value.problems
    assert str(one) in problem.what
    assert str(other) in problem.what
    assert "--from" in problem.todo


def test_strangers_are_named_and_left_out(run, tmp_path, caplog):
    write_patches(tmp_path / "a_patches.h5")
    write_patches(tmp_path / "stranger_patches.h5")
    with caplog.at_level(logging.WARNING):
        assert import_coordinates(run.plan, "trident", tmp_path, tmp_path / "out") == 1
    assert "1 left out, not in the sheet: stranger" in caplog.text
    assert "1 left out, without coordinates: b" in caplog.text
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.parquet"]


def test_a_folder_without_the_cohorts_slides_is_refused(run, tmp_path):
    with pytest.raises(ImportCoordinatesError, match=r"no patches/\*\.h5 at all"):
        import_coordinates(run.plan, "clam", tmp_path, tmp_path / "out")
    write_patches(tmp_path / "x_patches.h5")
    with pytest.raises(ImportCoordinatesError, match="slide_id column; it has x"):
        import_coordinates(run.plan, "trident", tmp_path, tmp_path / "out")


def test_no_other_file_is_read_by_way_of_a_link(run, tmp_path):
    secret = write_patches(tmp_path / "elsewhere" / "secret.h5")
    with h5py.File(tmp_path / "a_patches.h5", "w") as file:
        file["coords"] = h5py.ExternalLink(str(secret), "coords")
    with pytest.raises(ImportCoordinatesError, match="no dataset /coords"):
        import_coordinates(run.plan, "trident", tmp_path, tmp_path / "out")
    layout = h5py.VirtualLayout((2, 2), np.int64)
    layout[:] = h5py.VirtualSource(str(secret), "coords", (2, 2))
    with h5py.File(tmp_path / "a_patches.h5", "w") as file:
        file.create_virtual_dataset("coords", layout)
        file["coords"].attrs.update(GOOD)
    with pytest.raises(ImportCoordinatesError, match="not in this file"):
        import_coordinates(run.plan, "trident", tmp_path, tmp_path / "out")


def test_a_claim_of_endless_tiles_takes_no_memory(run, tmp_path):
    with h5py.File(tmp_path / "a_patches.h5", "w") as file:
        file.create_dataset("coords", (10**12, 2), np.int64, chunks=(4096, 2))
        file["coords"].attrs.update(GOOD)
    with pytest.raises(ImportCoordinatesError, match="beyond any slide's tiles"):
        import_coordinates(run.plan, "trident", tmp_path, tmp_path / "out")


def test_the_cohort_has_to_be_there(make_run, tmp_path):
    with pytest.raises(ArtifactError, match="Run the stage that makes it"):
        import_coordinates(make_run(Given("a")).plan, "trident", tmp_path, tmp_path / "out")


def test_the_same_file_gives_the_same_bytes_and_another_another_digest(run, tmp_path):
    path = write_patches(tmp_path / "in" / "a_patches.h5")
    import_coordinates(run.plan, "trident", tmp_path / "in", tmp_path / "one")
    shutil.copytree(tmp_path / "in", tmp_path / "moved")
    import_coordinates(run.plan, "trident", tmp_path / "moved", tmp_path / "two")
    one, two = (tmp_path / name / "a.parquet" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    write_patches(path, coords=[[0, 0]])
    import_coordinates(run.plan, "trident", tmp_path / "in", tmp_path / "two")
    assert read_footer(one)["item_digest"] != read_footer(two)["item_digest"]


@pytest.mark.parametrize("tool", ["trident", "clam"])
def test_a_file_without_tiles_is_a_table_without_rows(run, tmp_path, tool):
    level = {"patch_level": 0, "downsample": np.ones(2), "level_dim": np.array([2220, 2967])}
    name = "a_patches.h5" if tool == "trident" else "a.h5"
    write_patches(tmp_path / "patches" / name, np.empty((0, 2), np.int64), **level)
    assert import_coordinates(run.plan, tool, tmp_path, tmp_path / "out") == 1
    assert read_parquet(tmp_path / "out" / "a.parquet", "coordinates").empty
