"""The demo cohort as a user finds it."""

import json
import shutil
from pathlib import Path

import numpy as np
import openslide
import pandas as pd
import pytest
from shapely.geometry import box, shape
from shapely.ops import unary_union

from slidemill.cohort.sheet import read_sheet
from slidemill.demo import write_demo
from slidemill.errors import SlideCode, SlideError, UserError
from slidemill.slides.reader import Slide

SIZE = (1024, 768)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small cohort and what was reported about it."""
    folder = tmp_path_factory.mktemp("demo")
    calls = []
    summary = write_demo(
        folder, patients=6, seed=1, jobs=1, size_px=SIZE, progress=lambda *a: calls.append(a)
    )
    return folder, summary, calls


@pytest.fixture(scope="module")
def sheet(made):
    return pd.read_csv(made[0] / "slides.tsv", sep="\t")


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def regions_of(folder, slide_id):
    collection = json.loads((folder / "truth" / f"{slide_id}.geojson").read_text())
    assert collection["type"] == "FeatureCollection"
    return [shape(feature["geometry"]) for feature in collection["features"]]


def mpp_of(folder, slide_id):
    with openslide.OpenSlide(folder / "slides" / f"{slide_id}.tif") as slide:
        return tuple(float(slide.properties[f"openslide.mpp-{axis}"]) for axis in "xy")


def good(sheet):
    return sheet[~sheet.patient_id.isin(["P-glass", "P-torn"])]


def test_summary_progress_and_files(made, sheet):
    folder, summary, calls = made
    assert (summary.sheet, summary.slides, summary.patients) == (folder / "slides.tsv", 10, 8)
    assert calls == [(k, 10) for k in range(1, 11)]
    names = set(contents(folder))
    expected = {"slides.tsv", "demo.json", "README.txt", "truth/tiles.parquet"}
    expected |= {f"slides/{name}.tif" for name in sheet.slide_id}
    expected |= {f"truth/{name}.geojson" for name in sheet.slide_id}
    assert names == expected


def test_sheet_is_valid_and_balanced(made, sheet):
    assert list(sheet) == ["slide_id", "path", "patient_id", "site", "label"]
    read = read_sheet(made[0] / "slides.tsv")
    assert read.label_columns == ("site", "label")
    assert all(Path(row.path).exists() for row in read.rows)
    by_patient = sheet.groupby("patient_id")
    assert (by_patient.label.nunique() == 1).all()
    assert (by_patient.site.nunique() == 1).all()
    assert good(sheet).groupby("patient_id").label.first().mean() == 0.5
    twice = good(sheet).groupby("patient_id").size() == 2
    assert twice.sum() == 2
    assert sorted(by_patient.label.first()[twice[twice].index]) == [0, 1]


def test_positive_slides_and_only_they_have_truth(made, sheet):
    folder = made[0]
    tiles = pd.read_parquet(folder / "truth" / "tiles.parquet")
    for row in sheet.itertuples():
        assert bool(regions_of(folder, row.slide_id)) == (row.label == 1)
        assert (tiles.slide_id == row.slide_id).any() == (row.label == 1)


def test_truth_tiles_are_exact_and_complete(made, sheet):
    folder = made[0]
    tiles = pd.read_parquet(folder / "truth" / "tiles.parquet")
    assert [str(tiles[c].dtype) for c in ("x", "y", "signal_fraction")] == [
        "int64",
        "int64",
        "float32",
    ]
    assert not tiles.duplicated(["slide_id", "x", "y"]).any()
    order = tiles.slide_id.map({name: k for k, name in enumerate(sheet.slide_id)})
    assert order.is_monotonic_increasing
    for slide_id in good(sheet).query("label == 1").slide_id:
        region = unary_union(regions_of(folder, slide_id))
        mpp_x, mpp_y = (round(mpp, 6) for mpp in mpp_of(folder, slide_id))
        width, height = 128 / mpp_x, 128 / mpp_y
        expected = {}
        for i in range(int(SIZE[0] / width) + 1):
            for j in range(int(SIZE[1] / height) + 1):
                x, y = round(i * width), round(j * height)
                share = box(x, y, x + width, y + height).intersection(region).area
                if share > 0:
                    expected[x, y] = share / (width * height)
        found = tiles[tiles.slide_id == slide_id]
        fractions = dict(
            zip(zip(found.x, found.y, strict=True), found.signal_fraction, strict=True)
        )
        assert fractions == pytest.approx(expected, abs=1e-6)


def test_slides_open_with_the_right_resolution(made, sheet):
    found = {}
    for row in good(sheet).itertuples():
        with openslide.OpenSlide(made[0] / row.path) as slide:
            assert slide.dimensions == SIZE
        found[row.slide_id] = mpp_of(made[0], row.slide_id)
        expected = (0.46, 0.463) if row.site == "east" else (0.5, 0.5)
        assert found[row.slide_id] == pytest.approx(expected, abs=1e-3)
    assert len({round(x, 3) for x, _ in found.values()}) == 2


def test_bad_slides_are_bad_in_their_own_way(made):
    folder = made[0]
    with pytest.raises(SlideError) as caught:
        Slide(folder / "slides" / "torn-1.tif")
    assert caught.value.code == SlideCode.TRUNCATED
    with openslide.OpenSlide(folder / "slides" / "glass-1.tif") as slide:
        pixels = np.asarray(slide.read_region((0, 0), 0, SIZE))[..., :3]
    assert np.ptp(pixels.astype(int), axis=2).max() < 20
    assert pixels.min() > 200


def test_same_parameters_same_bytes_whatever_the_jobs(made, tmp_path):
    summary = write_demo(tmp_path / "b", patients=6, seed=1, jobs=2, size_px=SIZE)
    assert summary.slides == 10
    assert contents(tmp_path / "b") == contents(made[0])


def test_a_complete_cohort_is_not_written_again(made, tmp_path):
    folder = tmp_path / "demo"
    shutil.copytree(made[0], folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    calls = []
    summary = write_demo(
        folder, patients=6, seed=1, size_px=SIZE, progress=lambda *a: calls.append(a)
    )
    assert (summary.slides, summary.patients, calls) == (10, 8, [])
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    lost = folder / "slides" / "glass-1.tif"
    lost.unlink()
    write_demo(folder, patients=6, seed=1, jobs=1, size_px=SIZE)
    assert contents(folder) == contents(made[0])


def test_other_parameters_replace_the_whole_cohort(made, tmp_path):
    folder = tmp_path / "demo"
    shutil.copytree(made[0], folder)
    (folder / "slides" / "mine.tif").write_bytes(b"not of the demo")
    small = {"patients": 2, "seed": 2, "bad_slides": False, "jobs": 1, "size_px": (640, 512)}
    write_demo(folder, **small)
    write_demo(tmp_path / "fresh", **small)
    left = contents(folder)
    assert left.pop("slides/mine.tif") == b"not of the demo"
    assert left == contents(tmp_path / "fresh")


def test_slides_do_not_depend_on_the_number_of_processes_or_bad_slides(made, tmp_path):
    write_demo(tmp_path, patients=6, seed=1, bad_slides=False, jobs=1, size_px=SIZE)
    ours, full = contents(tmp_path / "slides"), contents(made[0] / "slides")
    assert ours == {name: full[name] for name in ours}
    assert set(full) - set(ours) == {"glass-1.tif", "torn-1.tif"}


def test_a_sheet_that_is_not_of_a_demo_is_not_written_over(tmp_path):
    (tmp_path / "slides.tsv").write_text("mine")
    with pytest.raises(UserError, match="not written over"):
        write_demo(tmp_path, patients=2, jobs=1, size_px=(640, 512))
    assert contents(tmp_path) == {"slides.tsv": b"mine"}


@pytest.mark.parametrize("text", ["{", "[]", '{"slides": 3}'])
def test_a_foreign_record_is_refused(tmp_path, text):
    (tmp_path / "demo.json").write_text(text)
    with pytest.raises(UserError, match="no record of a demo"):
        write_demo(tmp_path, patients=2, jobs=1, size_px=(640, 512))


@pytest.mark.parametrize(
    "change", [{"patients": 1}, {"seed": -1}, {"jobs": 0}, {"size_px": (4096, 100)}]
)
def test_parameters_out_of_range_are_refused(tmp_path, change):
    with pytest.raises(UserError, match="demo: patients"):
        write_demo(tmp_path, **change)
    assert contents(tmp_path) == {}
