"""Wrong input and killed runs, on the real workflow."""

import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pandas as pd
import pytest
import tifffile

from slidemill.slides.pyramid import write_pyramid

pytestmark = pytest.mark.slow

FEATURES_ONLY = {"evaluate": {}, "pretrain": {}}


def test_every_kind_of_bad_slide_becomes_a_row(project, disc_pixels):
    slides = project.folder / "demo" / "slides"
    rows = pd.read_csv(project.folder / "demo" / "slides.tsv", sep="\t", dtype=str)
    good = rows[~rows["slide_id"].str.contains("glass|torn")].iloc[:2]
    shutil.copy(slides / "torn-1.tif", slides / "torn.tif")
    (slides / "noise.svs").write_bytes(np.random.default_rng(0).bytes(5000))
    (slides / "empty.svs").touch()
    write_pyramid(slides / "coarse.tif", disc_pixels, mpp_x=2.0, mpp_y=2.0)
    write_pyramid(slides / "libvips.tif", disc_pixels, mpp_x=1000.0, mpp_y=1000.0)
    tifffile.imwrite(
        slides / "nompp.tif", disc_pixels, tile=(256, 256), compression="jpeg", photometric="rgb"
    )
    bad = {
        "torn": ("torn.tif", "truncated"),
        "noise": ("noise.svs", "not-a-slide"),
        "empty": ("empty.svs", "empty"),
        "missing": ("missing.svs", "file-missing"),
        "glass": ("glass-1.tif", "no-tissue"),
        "coarse": ("coarse.tif", "too-coarse"),
        "libvips": ("libvips.tif", "mpp-implausible"),
        "nompp": ("nompp.tif", "mpp-missing"),
    }
    lines = [
        {"slide_id": name, "path": f"slides/{path}", "patient_id": name}
        for name, (path, _) in bad.items()
    ]
    sheet = pd.concat([good, pd.DataFrame(lines)])
    sheet.to_csv(project.folder / "demo" / "slides.tsv", sep="\t", index=False)
    project.configure(**FEATURES_ONLY, cohort={"sheet": "demo/slides.tsv", "max_failed": 1.0})
    project.run()
    manifest = project.manifest("features/*/manifest.parquet")
    failed = manifest[manifest["status"] == "failed"]
    assert failed["error_code"].to_dict() == {name: code for name, (_, code) in bad.items()}
    assert failed["message"].str.len().min() > 30
    assert set(manifest.index[manifest["status"] == "ok"]) == set(good["slide_id"])
    assert "missing.svs" in project.one("report/*/report.html").read_text()


def test_too_many_failures_stop_the_run_with_their_names_and_keep_the_rest(project):
    project.configure(**FEATURES_ONLY, cohort={"sheet": "demo/slides.tsv", "max_failed": 0})
    printed = project.run(ok=False)
    assert "torn-1 (cohort, truncated)" in printed
    assert "max_failed" in printed
    assert "Traceback" not in printed
    assert len(list(project.results.glob("features/*/slides/*.h5"))) == 8


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"tiles": {"tilepx": 256}}, "Did you mean tile_px"),
        ({"tissue": {"method": "magic"}}, "tissue.method"),
        ({"features": {"encoders": ["uni3"]}}, "no encoder is called"),
        ({"evaluate": {"tasks": [{"name": "g", "column": "lable"}]}}, "no label column 'lable'"),
        ({"cohort": {"sheet": "none.tsv"}}, "there is no such file"),
    ],
)
def test_a_wrong_configuration_is_refused_before_any_work(project, sections, words):
    project.configure(**sections)
    printed = project.run(ok=False)
    assert words in printed
    assert "Traceback" not in printed
    assert not project.results.exists()


def test_a_wrong_sheet_is_refused_with_all_its_faults(project):
    sheet = project.folder / "demo" / "slides.tsv"
    sheet.write_text("slide_id\tpath\tpatient_id\na\tx\tp\na\ty\tp\n../b\tz\tp\n")
    printed = project.run(ok=False)
    assert "row 3, column slide_id" in printed
    assert "row 4, column slide_id" in printed
    assert "Traceback" not in printed


def test_a_patient_in_two_folds_fails_the_run(project):
    rows = pd.read_csv(project.folder / "demo" / "slides.tsv", sep="\t", dtype=str)
    patients = sorted(set(rows["patient_id"]))
    folds = pd.DataFrame(
        {
            "task": "grade",
            "repeat": 0,
            "fold": [i % 2 for i in range(len(patients))] + [1],
            "patient_id": [*patients, patients[0]],
        }
    )
    folds.to_csv(project.folder / "folds.csv", index=False)
    tasks = [{"name": "grade", "column": "label"}]
    project.configure(evaluate={"tasks": tasks, "folds": 2, "splits": "folds.csv"})
    printed = project.run(ok=False)
    assert patients[0] in printed
    assert "Traceback" not in printed
    assert not list(project.results.glob("evaluate/grade-*"))


def test_a_killed_run_goes_on_where_it_was_with_the_same_digests(project):
    project.configure(**FEATURES_ONLY, features={"encoders": ["hed-texture"]}, buckets=1)
    driver = subprocess.Popen(
        project.command("features"),
        env=project.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 180
    while len(done := list(project.results.glob("features/*/slides/*.h5"))) < 2:
        assert driver.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    finished = {path: path.stat().st_mtime_ns for path in done}
    assert len(finished) < 8
    project.run("features")
    manifest = project.manifest("features/*/manifest.parquet")
    assert (manifest["status"] == "ok").sum() == 8
    assert {path: path.stat().st_mtime_ns for path in done} == finished
    assert manifest["reused"].sum() >= len(finished)

    undisturbed = type(project)(project.folder / "undisturbed")
    shutil.copytree(project.folder / "demo", undisturbed.folder / "demo")
    undisturbed.configure(**FEATURES_ONLY, features={"encoders": ["hed-texture"]}, buckets=1)
    undisturbed.run("features")
    columns = ["status", "item_digest", "sha256", "count"]
    theirs = undisturbed.manifest("features/*/manifest.parquet")
    pd.testing.assert_frame_equal(manifest[columns], theirs[columns])


def test_two_drivers_on_one_result_do_not_mix(project):
    import fcntl

    project.results.mkdir()
    with (project.results / ".lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        printed = project.run(ok=False)
    assert "another run is working on these results" in printed


def test_real_slides_go_through_to_features(project, shared):
    folder = shared / "slides"
    (project.folder / "slides.tsv").write_text(
        "slide_id\tpath\tpatient_id\tmpp\n"
        f"cmu\t{folder / 'CMU-1-Small-Region.svs'}\tp1\t\n"
        f"tcga\t{folder / 'TCGA-CR-7395-01A-01-TS1.svs'}\tp2\t0.5\n"
    )
    project.configure(**FEATURES_ONLY, cohort={"sheet": "slides.tsv"}, tissue={})
    project.run("features")
    rows = project.manifest("features/*/manifest.parquet")
    assert (rows["status"] == "ok").all()
    # Both sections fill a known share of their slides; counts far off mean a wrong mask or grid.
    assert 35 <= rows.loc["cmu", "count"] <= 65
    assert 140 <= rows.loc["tcga", "count"] <= 200
    cohort = project.manifest("cohort/*/cohort.parquet")
    assert cohort["mpp_source"].to_dict() == {"cmu": "metadata:aperio.MPP", "tcga": "sheet"}
    for suffix in ("jpg", "geojson", "h5"):
        assert project.one(f"tissue/*/slides/cmu.{suffix}").stat().st_size > 1000
