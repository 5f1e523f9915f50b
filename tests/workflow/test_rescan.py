"""Slides whose files change under the same path: noticed by the workflow, judged by content."""

import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("rescan")]

STAGES = ("tissue", "candidates", "tiles", "features")


SECTIONS = {
    "cohort": {"sheet": "demo/slides.tsv", "max_failed": 0.5},
    "pretrain": {"runs": []},
    "evaluate": {},
}


def manifests(project):
    return {stage: project.manifest(f"{stage}/*/manifest.parquet") for stage in STAGES}


def computed(project):
    """Slides of each stage that its last job computed."""
    return {
        stage: set(rows.index[(rows["status"] == "ok") & ~rows["reused"].astype(bool)])
        for stage, rows in manifests(project).items()
    }


def slide_files(folder, slide_id):
    """Bytes of what a slide has in every stage, by stage and suffix."""
    found = {
        (stage, path.suffix): path.read_bytes()
        for stage in STAGES
        for path in folder.glob(f"{stage}/*/slides/{slide_id}.*")
    }
    assert len(found) == 6
    return found


def verify(project):
    program = [sys.executable, "-c", "from slidemill.cli import main; main()", "verify"]
    return subprocess.run(program, cwd=project.folder, capture_output=True, text=True, check=False)


@pytest.fixture
def spare(project):
    """A good slide that is not in the sheet, to be scanned over others."""
    sheet = project.folder / "demo" / "slides.tsv"
    rows = pd.read_csv(sheet, sep="\t", dtype=str).set_index("slide_id")
    rows.drop("P006-1").to_csv(sheet, sep="\t")
    return project.folder / "demo" / rows.loc["P006-1", "path"]


def test_slides_that_change_under_the_same_path(project, spare):
    slides = spare.parent
    project.configure(**SECTIONS)
    project.run()
    features = manifests(project)["features"]
    first, second = features.index[features["status"] == "ok"][:2]
    (bucket,) = (
        path
        for path in project.results.glob("cohort/*/buckets/*.parquet")
        if first in set(pd.read_parquet(path)["slide_id"])
    )
    beside = set(pd.read_parquet(bucket)["slide_id"])
    assert "Nothing to be done" in project.run()

    # Touched: its bucket is looked at again, and nothing is computed.
    os.utime(slides / f"{first}.tif")
    project.run()
    for stage, names in computed(project).items():
        assert not names & beside, stage
    assert "Nothing to be done" in project.run()

    # Another scan under the same name: this slide alone is computed, in every stage.
    before = manifests(project)
    shutil.copyfile(spare, slides / f"{first}.tif")
    project.run()
    for stage, names in computed(project).items():
        assert names & beside == {first}, stage
    for stage, rows in manifests(project).items():
        changed = rows["sha256"].dropna() != before[stage]["sha256"].dropna()
        assert list(changed.index[changed]) == [first], stage
    assert "Nothing to be done" in project.run()
    done = verify(project)
    assert done.returncode == 0, done.stdout
    project.configure(**SECTIONS, results="fresh")
    project.run()
    rescanned = slide_files(project.results, first)
    assert rescanned == slide_files(project.folder / "fresh", first)
    project.configure(**SECTIONS)

    # Gone, as into an archive: what was made from it stays, and nothing is to be done.
    shutil.move(slides / f"{second}.tif", project.folder / "elsewhere.tif")
    assert "Nothing to be done" in project.run()
    assert manifests(project)["features"].loc[second, "status"] == "ok"
    # Asked for: a row with its reason, and no result is left to be taken for its own.
    project.run("--forcerun", "cohort_bucket")
    row = manifests(project)["features"].loc[second]
    assert (row["status"], row["failed_stage"]) == ("failed", "cohort")
    assert row["error_code"] == "file-missing"
    done = verify(project)
    assert done.returncode == 0, done.stdout
    assert "Nothing to be done" in project.run()
