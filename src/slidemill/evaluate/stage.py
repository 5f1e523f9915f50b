"""The evaluate stage: summaries of features, and rows of comparisons.

- A summary reads one encoder's features and writes `summary.parquet` and `moments.h5`.
- A cell, one model on one input or all controls of a slide encoder, reads splits, the summary,
  features or slide encoders with their embeddings, and writes `predictions.parquet`,
  `metrics.parquet` and, for models with attention, `slides/<slide>.h5`.

Comparisons, which join the cells of a task, are in `slidemill.evaluate.comparison`.
Guarantees that every prediction is by a model, on an encoder, that never saw the patient, or fails
with a `LeakError`; leaks and faults of the features are found before anything is trained. What a
slide encoder saw is read from its own checkpoint, by `slidemill.evaluate.pretrained`.
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
from slidemill.evaluate.dataset import Rows, View, make_rows
from slidemill.evaluate.mil.bags import Moments
from slidemill.evaluate.models import RETRIEVAL
from slidemill.evaluate.pretrained import check_pretraining
from slidemill.evaluate.protocol import Predicted
from slidemill.evaluate.summary import Summary, check_same_content, summarise
from slidemill.features.store import FeatureStore
from slidemill.plan import CellPlan, EncoderPlan, Plan
from slidemill.splits.labels import missing_counts, read_targets, shuffle_targets
from slidemill.splits.stage import read_units

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
    arrays: dict[str, npt.NDArray[np.floating]] = {
        "mean": found.moments.mean,
        "m2": found.moments.m2,
        "max": found.maximum,
    }
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
    """The summary of an encoder's features.

    Raises:
        ArtifactError: If it is missing, damaged, or of an older slidemill.
    """
    stage = plan.summaries[encoder.encoder.label]
    path = plan.summary_path(stage)
    table = read_parquet(path, "feature-summary")
    with open_hdf5(path.with_name("moments.h5"), "feature-moments") as file:
        if "max" not in file:
            raise ArtifactError(
                f"{path.with_name('moments.h5')}: an older slidemill wrote it, without the largest "
                f"values. Make it again: `slidemill evaluate --run {stage.name}`."
            )
        mean, m2, maximum = file["mean"][:], file["m2"][:], file["max"][:]
    ids, digests, hashes = (tuple(table[c]) for c in ("slide_id", "item_digest", "sha256"))
    moments = Moments(table["count"].to_numpy(np.int64), mean, m2)
    return Summary(ids, digests, hashes, moments, maximum)


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
    """Run a cell's rows through all units; returns the path of its metrics.

    Raises:
        ArtifactError: If a slide encoder or an embedding is not the planned one.
        CohortError: If what is left of a unit cannot train a model.
        LeakError: If a tested patient was trained on, by the model or by its slide encoder, or if a
            slide is there under two names.
    """
    torch.set_num_threads(threads)
    folder = open_folder(cell.stage, plan.results)
    cohort = read_parquet(plan.manifest_path(plan.cohort), "cohort")
    data = _open(plan, cell, cohort)
    cells = cell.rows()
    tables, metrics, chosen = [], [], {}
    for number, row in enumerate(cells):
        shown = _Shown(cell.stage.label, number, len(cells))
        found = run_model(row, data, plan.config.evaluate, device, shown)
        tables.append(_named(row, data, found))
        metrics.append(_metrics(plan, row, data.rows, tables[-1], cohort))
        _write_attention(row, data, found, folder)
        if found.chosen:
            chosen[row.control] = found.chosen
    digests = [[data.summary.slide_ids[i], data.summary.item_digests[i]] for i in data.used]
    stamp = cell.stage.stamp("", {"features": cell.stage.item_digest(digests)})
    if chosen:
        said = chosen if cell.controls else next(iter(chosen.values()))
        write_text(folder / "chosen.json", json.dumps(said, indent=1) + "\n")
    predictions = pd.concat(tables, ignore_index=True)
    write_parquet(folder / "predictions.parquet", predictions, PREDICTIONS, stamp)
    joined = pd.concat(metrics, ignore_index=True)
    write_parquet(folder / "metrics.parquet", joined, METRICS, stamp)
    return folder / "metrics.parquet"


def _open(plan: Plan, cell: CellPlan, cohort: pd.DataFrame) -> CellData:
    """What a cell is run on, checked: nothing is trained before."""
    units = read_units(read_parquet(plan.splits_path(cell.task.name), "splits"))
    summary = read_summary(plan, cell.encoder)
    features = cell.encoder.features
    store = FeatureStore(features.folder(plan.results), read_manifest(plan.manifest_path(features)))
    check_summary(summary, store, cell.summary.name)
    encoders = check_pretraining(plan, cell, units, summary, cohort)

    def embedding(slide: int, view: View, readout: str) -> npt.NDArray[np.float32]:
        slide_id, digest = summary.slide_ids[slide], summary.item_digests[slide]
        return encoders[view].read(plan, slide_id, digest, readout)

    sites = None
    if cell.control == "site":
        column = cohort[str(plan.config.evaluate.site)]
        sites = dict(zip(cohort["slide_id"], column, strict=True))
    rows = _labelled(plan, cell, summary, cohort)
    return CellData(summary, rows, units, store, embedding, sites)


class _Shown:
    """Tells the log how far a cell is, every ten seconds and at the end of a row."""

    def __init__(self, label: str, row: int, rows: int) -> None:
        self._label, self._row, self._rows = label, row, rows
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if done == total or time.monotonic() - self._last > 10:
            self._last = time.monotonic()
            row = f"row {self._row + 1} of {self._rows}, " if self._rows > 1 else ""
            log.info("evaluate %s: %s%d/%d", self._label, row, done, total)


def _named(cell: CellPlan, data: CellData, found: Predicted) -> pd.DataFrame:
    """Predictions of a row in the columns of their format."""
    names = np.array(data.summary.slide_ids, dtype=object)
    who = {"task": cell.task.name, "model": cell.model, "input": cell.source}
    ids = names[found.table["slide"]]
    return found.table.assign(slide_id=ids, control=cell.control, **who).drop(columns="slide")


def _labelled(plan: Plan, cell: CellPlan, summary: Summary, cohort: pd.DataFrame) -> Rows:
    """The labelled slides of a cell that have features, with their targets."""
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
    return make_rows(
        used, patients, targets.take(kept), summary.moments.count[used],
        plan.config.evaluate.patient,
    )  # fmt: skip


def _tell_missing(cell: CellPlan, slides: list[str]) -> None:
    if slides:
        more = f" and {len(slides) - 5} more" if len(slides) > 5 else ""
        log.warning(
            "evaluate %s: %d labelled slides have no features and are left out: %s%s. The "
            "features' manifest.parquet says why.",
            cell.stage.label, len(slides), ", ".join(slides[:5]), more,
        )  # fmt: skip


def _metrics(
    plan: Plan, cell: CellPlan, rows: Rows, table: pd.DataFrame, cohort: pd.DataFrame
) -> pd.DataFrame:
    """Metrics of every sample of a row."""
    config = plan.config.evaluate
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
