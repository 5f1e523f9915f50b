"""The pretrain stage: one slide encoder, and the embeddings of all slides by it.

Reads the features of one tile encoder, the cohort's table and, where it is trained per fold, the
folds. Writes `checkpoint.safetensors`, `metrics.parquet`, `patients.json` (who was trained on),
`slides/<slide>.h5` and, last, `manifest.parquet`. Guarantees that the patients tested in its fold
were not trained on.
"""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from slidemill.artifacts.atomic import atomic_path, write_text
from slidemill.artifacts.digest import file_sha256
from slidemill.artifacts.folder import open_folder
from slidemill.artifacts.formats import EMBEDDING, PRETRAIN_METRICS
from slidemill.artifacts.hdf5 import write_hdf5
from slidemill.artifacts.manifest import (
    carried_failure,
    manifest_row,
    merge,
    read_manifest,
    records,
    write_manifest,
)
from slidemill.artifacts.parquet import read_parquet, write_parquet
from slidemill.artifacts.provenance import Stamp
from slidemill.errors import ArtifactError, CohortError
from slidemill.features.store import FeatureStore
from slidemill.plan import Plan, PretrainPlan
from slidemill.pretrain.bags import Float32Array, Int64Array, grid_positions
from slidemill.pretrain.encoder import SlideTransformer, embed
from slidemill.pretrain.train import train
from slidemill.splits.checks import check_training_patients

METADATA_KEY = "slidemill"
"""Key of the checkpoint's metadata; one key, since safetensors keeps no order of several."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Subset:
    """Some slides of a store, as a `BagSource`."""

    store: FeatureStore
    indices: Sequence[int]

    @property
    def slide_ids(self) -> list[str]:
        return [self.store.slide_ids[i] for i in self.indices]

    @property
    def dim(self) -> int:
        return self.store.dim

    def coords(self, i: int) -> Int64Array:
        return self.store.coords(self.indices[i])

    def step(self, i: int) -> tuple[float, float]:
        return self.store.step(self.indices[i])

    def features(self, i: int, rows: Int64Array | None = None) -> Float32Array:
        return self.store.features(self.indices[i], rows)


def run(plan: Plan, unit: PretrainPlan, device: str, threads: int, not_before: float) -> Path:
    """Train a slide encoder and embed every slide; returns the path of the manifest.

    Raises:
        CohortError: If too few slides are left to train on.
        CollapseError: If the training diverges.
        LeakError: If a patient tested in its fold would be trained on.
    """
    torch.set_num_threads(threads)
    results = plan.results
    folder = open_folder(unit.stage, results)
    above = unit.encoder.features
    manifest = read_manifest(plan.manifest_path(above))
    store = FeatureStore(above.folder(results), manifest)
    cohort = read_parquet(plan.manifest_path(plan.cohort), "cohort")
    trained_on = training_slides(plan, unit, cohort)
    indices = store.subset(set(trained_on["slide_id"]))
    if len(indices) < 2:
        raise CohortError(f"{unit.stage.label}: {len(indices)} slides are left to train on.")
    used = [[store.slide_ids[i], store.item_digests[i]] for i in indices]
    inputs = {"features": unit.stage.item_digest(used)}
    stamp = unit.stage.stamp("", inputs)
    path = folder / "checkpoint.safetensors"
    if not _is_done(path, stamp, not_before):
        _train(unit, _Subset(store, indices), device, path, stamp)
        people = trained_on[trained_on["slide_id"].isin([name for name, _ in used])]
        _write_patients(folder / "patients.json", people)
    encoder = load_checkpoint(path)
    rows = _embed_all(unit, store, encoder, device, folder, file_sha256(path), stamp)
    failed = [
        carried_failure(str(row["slide_id"]), row)
        for row in records(manifest)
        if row["status"] == "failed"
    ]
    ordered = merge([rows, failed], list(manifest["slide_id"]))
    write_manifest(folder / "manifest.parquet", ordered, unit.stage)
    return folder / "manifest.parquet"


def training_slides(plan: Plan, unit: PretrainPlan, cohort: pd.DataFrame) -> pd.DataFrame:
    """Rows of the cohort that the encoder may be trained on.

    Raises:
        LeakError: If a patient tested in its fold is among them.
    """
    if unit.run.patients == "split":
        return cohort[cohort["split"] == "pretrain"]
    if unit.task is None:
        return cohort
    path = plan.splits[unit.task].folder(plan.results) / "splits.parquet"
    folds = read_parquet(path, "splits")
    here = (folds["repeat"] == unit.repeat) & (folds["fold"] == unit.fold)
    here &= folds["part"] == "test"
    tested = set(folds.loc[here, "patient_id"])
    rows = cohort[~cohort["patient_id"].isin(tested)]
    check_training_patients(set(rows["patient_id"]), tested, unit.stage.label)
    return rows


def _train(unit: PretrainPlan, bags: _Subset, device: str, path: Path, stamp: Stamp) -> None:
    last_shown = time.monotonic()

    def show(step: int, steps: int, loss: float) -> None:
        nonlocal last_shown
        if step == steps or time.monotonic() - last_shown > 10:
            last_shown = time.monotonic()
            log.info("pretrain %s: step %d/%d, loss %.4f", unit.stage.label, step, steps, loss)

    trained = train(bags, unit.run, device=device, seed=unit.run.seed, progress=show)
    write_parquet(path.parent / "metrics.parquet", trained.metrics, PRETRAIN_METRICS, stamp)
    tensors, meta = trained.encoder.state_for_checkpoint()
    facts = stamp.as_attributes("slide-encoder", 1) | meta
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {METADATA_KEY: json.dumps(facts, sort_keys=True)})


def load_checkpoint(path: Path) -> SlideTransformer:
    """Load a slide encoder strictly.

    Raises:
        ArtifactError: If the file is missing or no checkpoint of ours.
        WeightsError: If it does not fit what it says it is.
    """
    facts = _read_metadata(path)
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    meta = {key: value for key, value in facts.items() if isinstance(value, str)}
    return SlideTransformer.from_state(tensors, meta)


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            raw = (file.metadata() or {}).get(METADATA_KEY)
    except Exception as error:  # noqa: BLE001 - safetensors raises kinds of its own
        raise ArtifactError(f"{path}: not readable as a checkpoint ({error}).") from None
    if raw is None:
        raise ArtifactError(f"{path}: no checkpoint of ours: it has no slidemill metadata.")
    facts: dict[str, Any] = json.loads(raw)
    return facts


def _is_done(path: Path, stamp: Stamp, not_before: float) -> bool:
    try:
        found = _read_metadata(path)
    except ArtifactError:
        return False
    if path.stat().st_mtime < not_before:
        return False
    others = (path.parent / name for name in ("metrics.parquet", "patients.json"))
    return found.get("item_digest") == stamp.item_digest and all(o.is_file() for o in others)


def _write_patients(path: Path, rows: pd.DataFrame) -> None:
    people = {
        "patients": sorted(set(rows["patient_id"])),
        "slides": sorted(rows["slide_id"]),
    }
    write_text(path, json.dumps(people, indent=1) + "\n")


def _embed_all(
    unit: PretrainPlan,
    store: FeatureStore,
    encoder: SlideTransformer,
    device: str,
    folder: Path,
    checkpoint_sha256: str,
    stamp: Stamp,
) -> list[dict[str, Any]]:
    rows = []
    for i, slide_id in enumerate(store.slide_ids):
        started = time.perf_counter()
        positions = grid_positions(store.coords(i), store.step(i))
        vector = embed(encoder, store.features(i), positions, device)
        path = folder / "slides" / f"{slide_id}.h5"
        item = unit.stage.stamp(
            slide_id, {"features": store.item_digests[i], "pretrain": stamp.item_digest}
        )
        write_hdf5(
            path,
            {"features": vector.astype(np.float32)},
            EMBEDDING,
            item,
            {
                "slide_encoder": unit.stage.label,
                "encoder": unit.encoder.encoder.spec.name,
                "checkpoint_sha256": checkpoint_sha256,
            },
        )
        rows.append(
            manifest_row(
                slide_id,
                status="ok",
                item_digest=item.item_digest,
                seconds=time.perf_counter() - started,
                path=f"slides/{slide_id}.h5",
                sha256=file_sha256(path),
                count=1,
            )
        )
    return rows
