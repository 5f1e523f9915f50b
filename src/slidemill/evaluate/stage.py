"""The evaluate stage: summaries of features, and rows of comparisons.

- A summary reads one encoder's features and writes `summary.parquet` and `moments.h5`.
- A cell, one model on one input, reads splits, the summary, features or slide embeddings, and
  writes `predictions.parquet`, `metrics.parquet` and, for models with attention,
  `slides/<slide>.h5`.

Comparisons, which join the cells of a task, are in `slidemill.evaluate.comparison`.
Guarantees that every prediction is by a model, on an encoder, that never saw the patient, or fails
with a `LeakError`; leaks and faults of the features are found before anything is trained.
"""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from slidemill.artifacts.atomic import write_text
from slidemill.artifacts.folder import open_folder
from slidemill.artifacts.formats import (
    ATTENTION,
    METRICS,
    MOMENTS,
    PREDICTIONS,
    SUMMARY,
)
from slidemill.artifacts.hdf5 import open_hdf5, write_hdf5
from slidemill.artifacts.manifest import read_manifest
from slidemill.artifacts.parquet import read_parquet, write_parquet
from slidemill.errors import ArtifactError
from slidemill.evaluate.bootstrap import retrieval_row_metrics, row_metrics
from slidemill.evaluate.cell import CellData, run_model
from slidemill.evaluate.dataset import Rows, make_rows
from slidemill.evaluate.mil.bags import Moments
from slidemill.evaluate.models import RETRIEVAL
from slidemill.evaluate.protocol import Predicted
from slidemill.evaluate.summary import Summary, check_same_content, summarise
from slidemill.features.store import FeatureStore
from slidemill.plan import CellPlan, EncoderPlan, Plan
from slidemill.splits.checks import check_training_patients
from slidemill.splits.labels import missing_counts, read_targets, shuffle_targets
from slidemill.splits.stage import read_units
from slidemill.splits.units import Unit

HEADLINE_REPEAT = 0
"""The repetition whose attention is kept."""
ROW = ["task", "model", "input", "control", "sample"]
"""Columns that name a row of a comparison."""

log = logging.getLogger(__name__)


def run_summary(plan: Plan, encoder: EncoderPlan) -> Path:
    """Summarise an encoder's features; returns the path of `summary.parquet`.

    Raises:
        CohortError: If features are not finite, naming the slides.
    """
    stage = plan.summaries[encoder.encoder.label]
    folder = open_folder(stage, plan.results)
    manifest = read_manifest(plan.manifest_path(encoder.features))
    store = FeatureStore(encoder.features.folder(plan.results), manifest)
    last = time.monotonic()

    def slides() -> Iterator[tuple[str, str, npt.NDArray[np.floating]]]:
        nonlocal last
        for i, slide_id in enumerate(store.slide_ids):
            if time.monotonic() - last > 10:
                last = time.monotonic()
                log.info("evaluate %s: slide %d/%d", stage.label, i, len(store))
            yield slide_id, store.item_digests[i], store.stored(i)

    found = summarise(slides())
    digests = [list(pair) for pair in zip(found.slide_ids, found.item_digests, strict=True)]
    stamp = stage.stamp("", {"features": stage.item_digest(digests)})
    name = encoder.encoder.spec.name
    arrays = {"mean": found.moments.mean, "m2": found.moments.m2}
    write_hdf5(folder / "moments.h5", arrays, MOMENTS, stamp, {"encoder": name})
    table = {
        "slide_id": list(found.slide_ids),
        "item_digest": list(found.item_digests),
        "sha256": list(found.sha256),
        "count": found.moments.count,
    }
    write_parquet(folder / "summary.parquet", table, SUMMARY, stamp)
    return folder / "summary.parquet"


def read_summary(plan: Plan, encoder: EncoderPlan) -> Summary:
    """The summary of an encoder's features."""
    path = plan.summary_path(plan.summaries[encoder.encoder.label])
    table = read_parquet(path, "feature-summary")
    with open_hdf5(path.with_name("moments.h5"), "feature-moments") as file:
        mean, m2 = file["mean"][:], file["m2"][:]
    ids, digests, hashes = (tuple(table[c]) for c in ("slide_id", "item_digest", "sha256"))
    return Summary(ids, digests, hashes, Moments(table["count"].to_numpy(np.int64), mean, m2))


def check_summary(summary: Summary, store: FeatureStore, name: str) -> None:
    """Refuse a summary of other features than those that are there.

    Raises:
        ArtifactError: Saying how it is made again.
    """
    here = (tuple(store.slide_ids), tuple(store.item_digests))
    if (summary.slide_ids, summary.item_digests) != here:
        raise ArtifactError(
            f"{name}: a summary of other features than those that are there. Make it again: "
            f"`slidemill evaluate --run {name}`."
        )


def run_cell(plan: Plan, cell: CellPlan, device: str, threads: int) -> Path:
    """Run one model on one input through all units; returns the path of its metrics.

    Raises:
        CohortError: If what is left of a unit cannot train a model.
        LeakError: If a tested patient was trained on, by the model or by its slide encoder, or if a
            slide is there under two names.
    """
    torch.set_num_threads(threads)
    folder = open_folder(cell.stage, plan.results)
    splits = read_parquet(plan.splits_path(cell.task.name), "splits")
    units = read_units(splits)
    check_pretraining(plan, cell, units)
    data = _data(plan, cell, units)
    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > 10:
            last = time.monotonic()
            log.info("evaluate %s: %d/%d", cell.stage.label, done, total)

    found = run_model(cell, data, plan.config.evaluate, device, show)
    names = np.array(data.summary.slide_ids, dtype=object)
    who = {"task": cell.task.name, "model": cell.model, "input": cell.source}
    table = found.table.assign(
        slide_id=names[found.table["slide"]], control=cell.control, **who
    ).drop(columns="slide")
    digests = [[data.summary.slide_ids[i], data.summary.item_digests[i]] for i in data.used]
    stamp = cell.stage.stamp("", {"features": cell.stage.item_digest(digests)})
    _write_attention(cell, data, found, folder)
    if found.chosen:
        write_text(folder / "chosen.json", json.dumps(found.chosen, indent=1) + "\n")
    write_parquet(folder / "predictions.parquet", table, PREDICTIONS, stamp)
    metrics = _metrics(plan, cell, data.rows, table)
    write_parquet(folder / "metrics.parquet", metrics, METRICS, stamp)
    return folder / "metrics.parquet"


def check_pretraining(plan: Plan, cell: CellPlan, units: list[Unit]) -> None:
    """Check that no slide encoder of a cell was trained on a patient whom the cell tests with it.

    Encoders of `patients: all` are let through: that they saw the test patients is what the
    configuration asked for, and the report says it beside each of their results.

    Raises:
        LeakError: Naming the patients.
    """
    for (repeat, fold), encoder in cell.pretrain.items():
        if encoder.run.patients == "all":
            continue
        path = encoder.stage.folder(plan.results) / "patients.json"
        trained = json.loads(path.read_text(encoding="utf-8"))["patients"]
        tested = {
            patient
            for unit in units
            if fold < 0 or (unit.repeat, unit.fold) == (repeat, fold)
            for patient in unit.test
        }
        check_training_patients(trained, tested, encoder.stage.label)


def _data(plan: Plan, cell: CellPlan, units: list[Unit]) -> CellData:
    """The labelled slides of a cell, their targets and where their features are."""
    summary = read_summary(plan, cell.encoder)
    cohort = read_parquet(plan.manifest_path(plan.cohort), "cohort")
    slides, targets = read_targets(cohort, cell.task)
    if cell.task.shuffle_labels:
        targets = shuffle_targets(slides, targets, plan.config.evaluate.seed)
    index = {slide_id: i for i, slide_id in enumerate(summary.slide_ids)}
    there = slides["slide_id"].isin(index).to_numpy()
    _tell_missing(cell, slides[~there]["slide_id"].tolist())
    kept = np.flatnonzero(there)
    used = [index[slide_id] for slide_id in slides["slide_id"].iloc[kept]]
    check_same_content(summary, [summary.slide_ids[i] for i in used])
    patients = [str(patient) for patient in slides["patient_id"].iloc[kept]]
    rows = make_rows(
        used, patients, targets.take(kept), summary.moments.count[used],
        plan.config.evaluate.patient,
    )  # fmt: skip
    features = cell.encoder.features
    store = FeatureStore(features.folder(plan.results), read_manifest(plan.manifest_path(features)))
    check_summary(summary, store, cell.summary.name)

    def embed(slide: int, view: tuple[int, int]) -> npt.NDArray[np.float32]:
        encoder = cell.pretrain[view]
        folder = encoder.stage.folder(plan.results)
        path = folder / "slides" / f"{summary.slide_ids[slide]}.h5"
        with open_hdf5(path, "slide-embedding") as file:
            vector: npt.NDArray[np.float32] = file["features"][:]
            return vector

    site = None
    if cell.control == "site":
        column = str(plan.config.evaluate.site)
        of_slide = dict(zip(cohort["slide_id"], cohort[column], strict=True))
        site = {summary.slide_ids[i]: of_slide[summary.slide_ids[i]] for i in used}
    return CellData(summary, rows, units, store, embed, site)


def _tell_missing(cell: CellPlan, slides: list[str]) -> None:
    if slides:
        more = f" and {len(slides) - 5} more" if len(slides) > 5 else ""
        log.warning(
            "evaluate %s: %d labelled slides have no features and are left out: %s%s. The "
            "features' manifest.parquet says why.",
            cell.stage.label, len(slides), ", ".join(slides[:5]), more,
        )  # fmt: skip


def _metrics(plan: Plan, cell: CellPlan, rows: Rows, table: pd.DataFrame) -> pd.DataFrame:
    """Metrics of every sample of a cell."""
    config = plan.config.evaluate
    cohort = read_parquet(plan.manifest_path(plan.cohort), "cohort")
    missing = {} if cell.control == "site" else missing_counts(cohort, cell.task)
    if cell.task.type != "multilabel" and missing:
        missing = {"all": max(missing.values())}
    found = []
    for sample, part in table.groupby("sample", sort=False):
        if cell.model == RETRIEVAL:
            one = retrieval_row_metrics(part, draws=config.bootstrap, seed=config.seed)
        else:
            kind, names = cell.task.type, rows.targets.names
            if cell.control == "site":
                kind, names = "multiclass", tuple(sorted(set(part["target"])))
            one = row_metrics(
                part, kind, names, draws=config.bootstrap, seed=config.seed, missing=missing
            )
        found.append(one.assign(**{c: part[c].iloc[0] for c in ROW[:-1]}, sample=sample))
    return pd.concat(found, ignore_index=True)


def _write_attention(cell: CellPlan, data: CellData, found: Predicted, folder: Path) -> None:
    """Attention of the first repetition over tiles, one file a slide."""
    if cell.kind == "slides":
        return
    fold_of = {
        patient: unit.fold
        for unit in data.units
        if unit.repeat == HEADLINE_REPEAT and unit.sample == "all"
        for patient in unit.test
    }
    for (repeat, row), weights in sorted(found.attention.items(), key=lambda item: item[0]):
        if repeat != HEADLINE_REPEAT:
            continue
        slides = data.rows.slides[row]
        ends = np.cumsum([data.summary.moments.count[slide] for slide in slides])
        for slide, part in zip(slides, np.split(weights, ends[:-1]), strict=True):
            slide_id = data.summary.slide_ids[slide]
            # In a joint bag the weights of all of a patient's slides sum to 1 together, and those
            # of one may have been too small to be told from 0.
            total = np.maximum(part.sum(), np.finfo(np.float32).tiny)
            write_hdf5(
                folder / "slides" / f"{slide_id}.h5",
                {
                    "attention": (part / total).astype(np.float32),
                    "coords": data.store.coords(slide),
                },
                ATTENTION,
                cell.stage.stamp(slide_id, {"features": data.summary.item_digests[slide]}),
                {
                    "repeat": repeat,
                    "fold": fold_of[data.rows.patients[row]],
                    "model": cell.model,
                    "input": cell.source,
                },
            )
