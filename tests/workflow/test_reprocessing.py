"""The walk of docs/reprocessing.md: what a change of a finished cohort computes, and what it keeps.

Slides are judged by the times of their files; in the end all of them, and the results, are those
of a fresh run.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from slidemill.demo import write_demo

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("reprocessing")]

SETTINGS = {
    "buckets": 2,
    "evaluate": {
        "tasks": [{"name": "grade", "column": "label"}],
        "models": ["linear-probe"],
        "inputs": ["slides"],
        "folds": 2,
        "bootstrap": 100,
        "controls": [],
    },
}
PRETRAIN = {
    "name": "dino",
    "patients": "all",
    "size": "1x16",
    "heads": 1,
    "head": {"prototypes": 16, "hidden": 16, "bottleneck": 8},
    "epochs": 2,
    "batch_slides": 4,
}
FINE = SETTINGS | {"pretrain": {"runs": [PRETRAIN]}}
BOTH = {"features": {"encoders": ["rgb-mean", "hed-texture"]}}
COARSE = SETTINGS | {"pretrain": {"runs": []}, "tiles": {"mpp": 1.0}}
STAGES = ("cohort", "tissue", "candidates", "tiles", "features")
RESCANNED = {"P001-1", "P003-1", "P005-1"}


def by_slide(paths):
    """Slides that files are of, by stage and label."""
    found = {}
    for path in paths:
        stage, folder = path.parts[-4:-2]
        found.setdefault(f"{stage}/{folder.rpartition('-')[0]}", set()).add(path.stem)
    return found


class Walk:
    """A project with two configurations, which knows what each run wrote."""

    def __init__(self, project):
        self.project = project
        self.times = {}

    def fine(self, *arguments, **sections):
        """Run the first configuration; returns what was printed."""
        self.project.configure(**(FINE | sections))
        return self.project.run(*arguments)

    def coarse(self, *arguments, **sections):
        """Run the second one, which is in a file of its own."""
        self.project.configure(**(COARSE | sections))
        path = (self.project.folder / "config.yaml").rename(self.project.folder / "coarse.yaml")
        return self.project.run(*arguments, "--configfile", str(path))

    def written(self):
        """Slides whose files were written since the last call, by stage and label."""
        files = [
            path
            for path in self.project.results.glob("*/*/slides/*")
            # A slide without tissue leaves its picture alone.
            if path.suffix != ".jpg" or path.with_suffix(".h5").exists()
        ]
        before, self.times = self.times, {path: path.stat().st_mtime_ns for path in files}
        return by_slide(path for path, time in self.times.items() if before.get(path) != time)

    def evaluated(self):
        """When each table of an evaluation was written."""
        tables = self.project.results.glob("evaluate/*/*.parquet")
        return {path: path.stat().st_mtime_ns for path in tables}

    def ask(self, *arguments):
        """What a command prints."""
        program = [sys.executable, "-c", "from slidemill.cli import main; main()", *arguments]
        folder = self.project.folder
        return subprocess.run(
            program, cwd=folder, capture_output=True, text=True, check=False
        ).stdout

    def contents(self, results):
        """Bytes by path of all files of slides, slide encoders, folds and evaluations."""
        folder = self.project.folder / results
        # The metrics of a training say how long it took.
        tables = ("splits/*/splits", "evaluate/*/predictions", "evaluate/*/metrics")
        patterns = ["*/*/slides/*", "pretrain/*/*.safetensors", *(f"{t}.parquet" for t in tables)]
        found = {path for pattern in patterns for path in folder.glob(pattern)}
        return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture
def walk(project):
    return Walk(project)


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> Path:
    """Other slides under the same names."""
    folder = tmp_path_factory.mktemp("others") / "demo"
    write_demo(folder, patients=6, seed=7, bad_slides=False, size_px=(1536, 1152), jobs=1)
    return folder


def add_slides(project, others, names):
    """Append slides of another cohort to the sheet, under names of their own."""
    sheet = project.folder / "demo" / "slides.tsv"
    rows = pd.read_csv(others / "slides.tsv", sep="\t", dtype=str)
    rows = rows[rows["slide_id"].isin(names)]
    paths = [str(others / path) for path in rows["path"]]
    ids = {name: "new-" + rows[name] for name in ("slide_id", "patient_id")}
    table = pd.concat([pd.read_csv(sheet, sep="\t", dtype=str), rows.assign(path=paths, **ids)])
    table.to_csv(sheet, sep="\t", index=False)
    return set(ids["slide_id"])


def test_what_is_computed_again_and_what_is_kept(walk, others):
    project = walk.project
    walk.fine("pretrain")
    first = walk.written()
    good = first["features/rgb-mean"]
    trained = "pretrain/dino-rgb-mean"
    assert len(good) == 8
    per_slide = ["tissue/otsu", "candidates/256px-0.5mpp", "tiles/256px-0.5mpp",
                 "features/rgb-mean"]  # fmt: skip
    assert first == dict.fromkeys([*per_slide, trained], good)

    # Another encoder: its features of every slide, and nothing that was there.
    walk.fine("features", **BOTH)
    assert walk.written() == {"features/hed-texture": good}

    # Another resolution, as a second configuration: tissue is kept, what follows is beside it.
    walk.coarse("features")
    coarse = ["candidates/256px-1mpp", "tiles/256px-1mpp", "features/rgb-mean"]
    assert walk.written() == dict.fromkeys(coarse, good)
    assert "Nothing to be done" in walk.fine("features", **BOTH)

    # More slides: they alone are computed; an encoder of all slides is another one.
    new = add_slides(project, others, {"P002-1", "P004-1"})
    walk.fine("evaluate")
    assert walk.written() == dict.fromkeys(per_slide, new) | {trained: good | new}
    assert len(list(project.results.glob("pretrain/*"))) == 2
    walk.fine("features", **BOTH)
    assert walk.written() == {"features/hed-texture": new}
    walk.coarse("features")
    assert walk.written() == dict.fromkeys(coarse, new)

    # Rescans under the same names: they alone are computed, in every stage, and what was learnt
    # of all slides is learnt again in its place.
    for name in RESCANNED:
        slide = project.folder / "demo" / "slides" / f"{name}.tif"
        shutil.copyfile(others / "slides" / slide.name, slide)
    evaluated = walk.evaluated()
    walk.fine()
    assert walk.written() == dict.fromkeys(per_slide, RESCANNED) | {trained: good | new}
    again = walk.evaluated()
    assert again.keys() == evaluated.keys()
    assert all(again[path] > evaluated[path] for path in again)
    found = json.loads(walk.ask("diff", "last~3", "last", "--json"))
    assert found["config"] == found["slides_added"] == found["slides_removed"] == []
    assert all(stage["same"] for stage in found["stages"])
    changed = {one["stage"]: set(one["changed"]) for one in found["slides"]}
    assert changed == dict.fromkeys(STAGES, RESCANNED) | {"pretrain": good | new}
    named = ", ".join(sorted(RESCANNED))
    assert f"3 slides made from other content: {named}\n" in walk.ask("diff", "last~3", "last")
    walk.fine("features", **BOTH)
    assert walk.written() == {"features/hed-texture": RESCANNED}
    walk.coarse("features")
    assert walk.written() == dict.fromkeys(coarse, RESCANNED)

    # Nothing of the old scans is left: all is as in runs that never saw them.
    walk.fine("evaluate", results="fresh")
    walk.fine("features", results="fresh", **BOTH)
    walk.coarse("features", results="fresh")
    fresh, here = walk.contents("fresh"), walk.contents("results")
    assert len(fresh) > 100
    assert [path for path, content in fresh.items() if here[path] != content] == []
    project.configure(**FINE)
    assert walk.ask("verify").startswith("0 problem(s)")
