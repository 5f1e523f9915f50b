"""The evaluate stage: one model on one input, and the comparison of a task.

A cell reads splits, features or slide embeddings, and writes `predictions.parquet`,
`metrics.parquet` and, for models with attention, `slides/<slide>.h5`. A comparison joins the cells
of a task and adds its folds and ROC curves. Guarantees that every prediction is by a model, on an
encoder, that never saw the patient, or fails with a `LeakError`.
"""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from slidemill.artifacts.atomic import write_bytes
from slidemill.artifacts.folder import open_folder
from slidemill.artifacts.formats import ATTENTION, METRICS, PREDICTIONS, SPLITS
from slidemill.artifacts.hdf5 import open_hdf5, write_hdf5
from slidemill.artifacts.manifest import read_manifest
from slidemill.artifacts.parquet import read_parquet, write_parquet
from slidemill.artifacts.provenance import Stamp
from slidemill.evaluate.bootstrap import bootstrap_intervals, fold_metrics
from slidemill.evaluate.figures import roc_figure
from slidemill.evaluate.protocol import (
    CrossValidated,
    EvaluationInput,
    SlideVectors,
    TileBags,
    cross_validate,
)
from slidemill.features.store import FeatureStore, Float32Array
from slidemill.plan import CellPlan, Plan, PretrainPlan
from slidemill.splits.folds import check_training_patients
from slidemill.splits.labels import encode_binary

HEADLINE_REPEAT = 0
"""The repetition whose attention is kept."""

log = logging.getLogger(__name__)


def run_cell(plan: Plan, cell: CellPlan, device: str, threads: int) -> Path:
    """Cross-validate one model on one input; returns the path of its metrics.

    Raises:
        CohortError: If the slides that are left lack a class.
        LeakError: If a tested patient was trained on, by the model or by its slide encoder.
    """
    folder = open_folder(cell.stage, plan.results)
    features = cell.encoder.features
    store = FeatureStore(features.folder(plan.results), read_manifest(plan.manifest_path(features)))
    splits = read_parquet(splits_path(plan, cell.task.name), "splits")
    check_pretraining(plan, cell, splits)
    inputs, indices = _inputs(plan, cell, store, splits)
    config = plan.config.evaluate
    if cell.model == "abmil":
        import torch

        torch.set_num_threads(threads)

    def show(done: int, total: int) -> None:
        log.info("evaluate %s: fold %d/%d", cell.stage.label, done, total)

    found = cross_validate(
        inputs, splits, cell.model, config, seed=config.seed, device=device, progress=show
    )
    digests = [[store.slide_ids[i], store.item_digests[i]] for i in indices]
    stamp = cell.stage.stamp("", {"features": cell.stage.item_digest(digests)})
    who = {"task": cell.task.name, "model": cell.model, "input": cell.source}
    _write_attention(cell, store, indices, found, folder)
    write_parquet(
        folder / "predictions.parquet", found.predictions.assign(**who), PREDICTIONS, stamp
    )
    metrics = cell_metrics(found.predictions, config.bootstrap, config.seed).assign(**who)
    write_parquet(folder / "metrics.parquet", metrics, METRICS, stamp)
    return folder / "metrics.parquet"


def run_task(plan: Plan, task: str) -> Path:
    """Join the cells of a task into one comparison; returns the path of its metrics."""
    stage = plan.evaluate[task]
    folder = open_folder(stage, plan.results)
    folders = [c.stage.folder(plan.results) for c in plan.cells if c.task.name == task]
    stamp = Stamp(digest=stage.digest, item_digest=stage.digest, parameters=dict(stage.parameters))

    def joined(name: str, kind: str) -> pd.DataFrame:
        return pd.concat([read_parquet(f / name, kind) for f in folders], ignore_index=True)

    predictions = joined("predictions.parquet", "predictions")
    write_parquet(folder / "predictions.parquet", predictions, PREDICTIONS, stamp)
    splits = read_parquet(splits_path(plan, task), "splits")
    write_parquet(folder / "splits.parquet", splits, SPLITS, stamp)
    metrics = joined("metrics.parquet", "metrics")
    write_bytes(folder / "roc.svg", roc_figure(predictions, metrics))
    write_parquet(folder / "metrics.parquet", metrics, METRICS, stamp)
    return folder / "metrics.parquet"


def splits_path(plan: Plan, task: str) -> Path:
    """Where the folds of a task are."""
    return plan.splits[task].folder(plan.results) / "splits.parquet"


def cell_metrics(predictions: pd.DataFrame, draws: int, seed: int) -> pd.DataFrame:
    """Metrics over all folds with intervals, then of every fold."""
    overall = bootstrap_intervals(predictions, draws=draws, seed=seed).assign(repeat=-1, fold=-1)
    single = fold_metrics(predictions).assign(low=np.nan, high=np.nan)
    return pd.concat([overall, single[overall.columns]], ignore_index=True)


def check_pretraining(plan: Plan, cell: CellPlan, splits: pd.DataFrame) -> None:
    """Check that no slide encoder of a cell was trained on a patient whom the cell tests with it.

    Encoders of `patients: all` are let through: that they saw the test patients is what the
    configuration asked for, and the report says it beside each of their results.

    Raises:
        LeakError: Naming the patients.
    """
    for (repeat, fold), unit in cell.pretrain.items():
        if unit.run.patients == "all":
            continue
        path = unit.stage.folder(plan.results) / "patients.json"
        trained = json.loads(path.read_text(encoding="utf-8"))["patients"]
        chosen = (splits["repeat"] == repeat) & (splits["fold"] == fold)
        here = splits if fold < 0 else splits[chosen]
        check_training_patients(trained, set(here["patient_id"]), unit.stage.label)


def _inputs(
    plan: Plan, cell: CellPlan, store: FeatureStore, splits: pd.DataFrame
) -> tuple[EvaluationInput, list[int]]:
    """The labelled slides of a cell, as its model takes them, and their indices in the store."""
    label_of = dict(zip(splits["patient_id"], splits["label"], strict=True))
    cohort = read_parquet(plan.manifest_path(plan.cohort), "cohort")
    patient_of = dict(zip(cohort["slide_id"], cohort["patient_id"], strict=True))
    column = cell.task.column
    labelled = set(cohort.loc[cohort[column].notna() & (cohort[column] != ""), "slide_id"])
    indices = store.subset({s for s in labelled if patient_of[s] in label_of})
    slide_ids = tuple(store.slide_ids[i] for i in indices)
    patients = tuple(str(patient_of[s]) for s in slide_ids)
    labels, _ = encode_binary(pd.Series([label_of[p] for p in patients]), cell.task.positive)
    coded: npt.NDArray[np.int64] = np.asarray(labels, dtype=np.int64)
    if cell.pretrain:
        vector = _embeddings(plan, cell.pretrain, slide_ids)
        return SlideVectors(slide_ids, patients, coded, vector), indices
    bags = TileBags(slide_ids, patients, coded, lambda i: store.features(indices[i]))
    return (bags if cell.model == "abmil" else bags.means()), indices


def _embeddings(
    plan: Plan, encoders: Mapping[tuple[int, int], PretrainPlan], slide_ids: tuple[str, ...]
) -> Callable[[int, int, int], Float32Array]:
    """Slide embeddings by the slide encoder of a fold, read when they are asked for."""

    def vector(i: int, repeat: int, fold: int) -> Float32Array:
        unit = encoders.get((repeat, fold)) or encoders[-1, -1]
        path = unit.stage.folder(plan.results) / "slides" / f"{slide_ids[i]}.h5"
        with open_hdf5(path, "slide-embedding") as file:
            features: Float32Array = file["features"][:]
            return features

    return vector


def _write_attention(
    cell: CellPlan,
    store: FeatureStore,
    indices: list[int],
    found: CrossValidated,
    folder: Path,
) -> None:
    """Attention of the first repetition, one file a slide."""
    first = found.predictions[found.predictions["repeat"] == HEADLINE_REPEAT]
    rows = {str(row["slide_id"]): row for row in first.to_dict("records")}
    for i in indices:
        slide_id = store.slide_ids[i]
        weights = found.attention.get((HEADLINE_REPEAT, slide_id))
        if weights is None:
            continue
        write_hdf5(
            folder / "slides" / f"{slide_id}.h5",
            {"attention": weights.astype(np.float32), "coords": store.coords(i)},
            ATTENTION,
            cell.stage.stamp(slide_id, {"features": store.item_digests[i]}),
            {
                "repeat": HEADLINE_REPEAT,
                "fold": int(rows[slide_id]["fold"]),
                "probability": float(rows[slide_id]["probability"]),
            },
        )
