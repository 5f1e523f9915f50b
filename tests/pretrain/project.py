"""A project up to its features, made of arrays: what the pretrain stage finds on the disk.

Six patients; the first two have two slides each. One more slide failed before.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from pretrain.tiny import SETTINGS, make_bags
from slidemill import jobs
from slidemill.artifacts.digest import digest_of
from slidemill.artifacts.folder import open_folder
from slidemill.artifacts.formats import COHORT, FEATURES
from slidemill.artifacts.hdf5 import write_hdf5
from slidemill.artifacts.manifest import (
    failure,
    manifest_row,
    read_manifest,
    records,
    write_manifest,
)
from slidemill.artifacts.parquet import write_parquet
from slidemill.config import load_config
from slidemill.errors import SlideCode, SlideError
from slidemill.plan import Plan, PretrainPlan
from slidemill.planner import make_plan
from slidemill.pretrain import stage

SLIDES = {
    "s0": "p0", "s1": "p1", "s2": "p2", "s3": "p3", "s4": "p4", "s5": "p5",
    "again-0": "p0", "again-1": "p1",
}  # fmt: skip
PRETRAINED = ("s1", "s2", "s3", "again-1")
"""Slides that the sheet gives to `patients: split`."""
FACTS = {
    "encoder": "rgb-mean", "weights_sha256": "", "mpp": 0.5, "tile_px": 256, "mpp_x": 0.5,
    "mpp_y": 0.5, "step_x": 256.0, "step_y": 256.0, "tiles_left_out": 0, "output": "pooled",
    "precision": "fp32",
}  # fmt: skip


@dataclass(frozen=True)
class Project:
    """A folder with a configuration, a cohort and features."""

    folder: Path

    @property
    def plan(self) -> Plan:
        return make_plan(load_config(self.folder / "config.yaml"), self.folder)

    @property
    def unit(self) -> PretrainPlan:
        """The first training."""
        return self.plan.pretrain[0]

    @property
    def output(self) -> Path:
        """Folder of the first training."""
        plan = self.plan
        return plan.pretrain[0].stage.folder(plan.results)

    def configure(self, settings: dict[str, object] | None = None, **pretrain: object) -> None:
        """Write config.yaml, for one run of tiny settings with changes."""
        run = {**SETTINGS, "patients": "all", "name": "tiny"} | (settings or {})
        pretrain = {"runs": [run], "device": "cpu", "readers": 1} | pretrain
        sections = {
            "cohort": {"sheet": "s.tsv"},
            "features": {"encoders": ["rgb-mean"]},
            "pretrain": pretrain,
            "evaluate": {"tasks": [{"name": "t", "column": "label"}], "folds": 3},
        }
        (self.folder / "config.yaml").write_text(yaml.safe_dump(sections))

    def write(self, slide_id: str, features: np.ndarray, coords: np.ndarray, **facts: str) -> str:
        """Write the features of a slide; returns their digest."""
        above = self.plan.encoders[0].features
        stamp = above.stamp(slide_id, {"tiles": digest_of(features.tobytes().hex())})
        write_hdf5(
            above.folder(self.plan.results) / "slides" / f"{slide_id}.h5",
            {"features": features, "coords": coords},
            FEATURES,
            stamp,
            FACTS | facts,
        )
        return stamp.item_digest

    def replace(self, slide_id: str, features: np.ndarray, coords: np.ndarray) -> None:
        """Write other tiles of a slide, and say so in the manifest."""
        plan = self.plan
        above = plan.encoders[0].features
        rows = read_manifest(plan.manifest_path(above))
        digest = self.write(slide_id, features, coords)
        rows.loc[rows["slide_id"] == slide_id, "item_digest"] = digest
        write_manifest(plan.manifest_path(above), records(rows), above)

    def write_features(self, changed: dict[str, np.ndarray] | None = None) -> None:
        """Write the features of all slides, and the manifest; some with other values."""
        plan = self.plan
        above = plan.encoders[0].features
        open_folder(above, plan.results)
        bags = make_bags(len(SLIDES), dim=3)
        rows = []
        for i, slide_id in enumerate(SLIDES):
            values = (changed or {}).get(slide_id, bags.tile_features[i])
            digest = self.write(slide_id, values, bags.tile_coords[i][: len(values)])
            path = f"slides/{slide_id}.h5"
            rows.append(
                manifest_row(
                    slide_id, status="ok", item_digest=digest, path=path, count=len(values)
                )
            )
        rows.append(failure("glass", "tissue", SlideError(SlideCode.NO_TISSUE, "no tissue"), 1.0))
        write_manifest(plan.manifest_path(above), rows, above)

    def run(self, number: int = 0) -> Path:
        """Run a training in this process."""
        plan = self.plan
        return stage.run(plan, plan.pretrain[number], "cpu", 1, jobs.not_before(plan, "pretrain"))

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        """`slidemill pretrain` in a process of its own; nothing of it outlives the block."""
        config = str(self.folder / "config.yaml")
        process = subprocess.Popen(
            [sys.executable, "-m", "slidemill.cli", "pretrain", "--config", config],
            cwd=self.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def make_project(folder: Path, settings: dict[str, object] | None = None, **pretrain: object):
    """Write all that comes before pretraining."""
    header = "slide_id\tpath\tpatient_id\tlabel\tsplit\n"
    rows = [
        f"{slide}\t{slide}.svs\t{who}\t{int(who[1]) % 2}\t"
        f"{'pretrain' if slide in PRETRAINED else ''}\n"
        for slide, who in SLIDES.items()
    ]
    rows.append("glass\tglass.svs\tp9\t1\t\n")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "s.tsv").write_text(header + "".join(rows))
    project = Project(folder)
    project.configure(settings, **pretrain)
    _write_cohort(project.plan)
    project.write_features()
    if project.unit.task is not None:
        jobs.splits(project.plan, "t")
    return project


def _write_cohort(plan: Plan) -> None:
    rows = plan.sheet.rows
    known = {
        "slide_id": [row.slide_id for row in rows],
        "patient_id": [row.patient_id for row in rows],
        "split": [row.split for row in rows],
        "path": [str(row.path) for row in rows],
        "status": ["ok"] * len(rows),
    }
    columns = {
        field.name: known.get(
            field.name, [None if field.nullable else "" if field.dtype == "str" else 0] * len(rows)
        )
        for field in COHORT.fields
    }
    frame = pd.DataFrame(columns | {"label": [row.labels.get("label") for row in rows]})
    write_parquet(plan.manifest_path(plan.cohort), frame, COHORT, plan.cohort.stamp("", {}))
