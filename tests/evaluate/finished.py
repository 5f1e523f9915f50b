"""A small run up to its slide encoders, made of arrays: what an evaluation finds on the disk."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from slidemill import jobs
from slidemill.artifacts.digest import file_sha256
from slidemill.artifacts.folder import open_folder
from slidemill.artifacts.formats import COHORT, EMBEDDING, FEATURES
from slidemill.artifacts.hdf5 import write_hdf5
from slidemill.artifacts.manifest import manifest_row, read_manifest, write_manifest
from slidemill.artifacts.parquet import read_parquet, write_parquet
from slidemill.config import parse_config
from slidemill.evaluate.stage import run_summary
from slidemill.features.store import FeatureStore
from slidemill.plan import Plan, PretrainPlan
from slidemill.planner import make_plan
from slidemill.pretrain.bags import grid_positions
from slidemill.pretrain.checkpoint import (
    TrainedOn,
    embedding_stamp,
    save_checkpoint,
    training_stamp,
)
from slidemill.pretrain.embedding import embed_with_controls
from slidemill.pretrain.vit import SlideTransformer

PATIENTS, DIM = 24, 6
RUN = {"name": "dino", "size": "2x16", "heads": 2, "patients": "per-fold"}
FEATURE_FACTS = {
    "encoder": "rgb-mean", "weights_sha256": "", "mpp": 0.5, "tile_px": 256, "mpp_x": 0.5,
    "mpp_y": 0.5, "step_x": 256.0, "step_y": 256.0, "tiles_left_out": 0, "output": "pooled",
    "precision": "fp32",
}  # fmt: skip


def make_run(folder: Path, runs: list[dict[str, object]], **evaluate: object) -> Plan:
    """Plan a run and write all that comes before its evaluation."""
    header = "slide_id\tpath\tpatient_id\tlabel\tsplit\n"
    rows = [f"s{i:02}\ts{i:02}.svs\tp{i:02}\t{i // 3 % 2}\t\n" for i in range(PATIENTS)]
    rows += [f"x{i}\tx{i}.svs\tq{i}\t\tpretrain\n" for i in range(4)]
    (folder / "s.tsv").write_text(header + "".join(rows))
    sections = {
        "cohort": {"sheet": "s.tsv"},
        "features": {"encoders": ["rgb-mean"]},
        "pretrain": {"runs": runs},
        "evaluate": {
            "tasks": [{"name": "t", "column": "label"}], "models": ["linear-probe"], "folds": 3,
            "inner_folds": 2, "bootstrap": 100, "linear_probe": {"strength": 1.0},
        } | evaluate,
    }  # fmt: skip
    plan = make_plan(parse_config(sections, "test"), folder)
    _write_cohort(plan)
    _write_features(plan)
    jobs.splits(plan, "t")
    run_summary(plan, plan.encoders[0])
    for unit in plan.pretrain:
        write_encoder(plan, unit, trained_patients(plan, unit))
    return plan


def trained_patients(plan: Plan, unit: PretrainPlan) -> set[str]:
    """Everybody whom an encoder may see."""
    cohort = read_parquet(plan.manifest_path(plan.cohort), "cohort")
    if unit.run.patients == "split":
        return set(cohort.loc[cohort["split"] == "pretrain", "patient_id"])
    people = set(cohort["patient_id"])
    if unit.run.patients == "all":
        return people
    splits = read_parquet(plan.splits_path("t"), "splits")
    here = (splits["fold"] == unit.fold) & (splits["part"] == "test")
    return people - set(splits.loc[here, "patient_id"])


def write_encoder(plan: Plan, unit: PretrainPlan, patients: set[str]) -> Path:
    """Write the checkpoint of a slide encoder of these patients, and all embeddings."""
    folder = open_folder(unit.stage, plan.results)
    manifest = read_manifest(plan.manifest_path(unit.encoder.features))
    store = FeatureStore(unit.encoder.features.folder(plan.results), manifest)
    cohort = read_parquet(plan.manifest_path(plan.cohort), "cohort")
    mine = set(cohort.loc[cohort["patient_id"].isin(patients), "slide_id"])
    digests = dict(zip(store.slide_ids, store.item_digests, strict=True))
    stamp = training_stamp(unit.stage, [(s, digests[s]) for s in mine])
    trained, initial = _encoder(unit.fold + 1), _encoder(99)
    path = folder / "checkpoint.safetensors"
    facts = stamp.as_attributes("slide-encoder", 2)
    save_checkpoint(path, trained, facts, TrainedOn.of(patients, mine))
    for i, slide_id in enumerate(store.slide_ids):
        arrays = embed_with_controls(
            trained, initial, store.features(i), grid_positions(store.coords(i), store.step(i)),
            seed=unit.run.seed, slide_id=slide_id, device="cpu",
        )  # fmt: skip
        write_hdf5(
            folder / "slides" / f"{slide_id}.h5",
            arrays,
            EMBEDDING,
            embedding_stamp(unit.stage, slide_id, digests[slide_id], stamp.item_digest),
            {
                "slide_encoder": unit.stage.label,
                "encoder": unit.encoder.encoder.spec.name,
                "checkpoint_sha256": file_sha256(path),
                "patients": unit.run.patients,
            },
        )
    return path


def _encoder(seed: int) -> SlideTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SlideTransformer(DIM, 16, 2, 2).eval()


def _write_cohort(plan: Plan) -> None:
    rows = plan.sheet.rows
    known = {
        "slide_id": [row.slide_id for row in rows],
        "patient_id": [row.patient_id for row in rows],
        "split": [row.split for row in rows],
        "path": [str(row.path) for row in rows],
        "label": [row.labels.get("label") or None for row in rows],
        "status": ["ok"] * len(rows),
    }
    columns = {
        field.name: known.get(
            field.name, [None if field.nullable else "" if field.dtype == "str" else 0] * len(rows)
        )
        for field in COHORT.fields
    }
    frame = pd.DataFrame(columns | {"label": known["label"]})
    stamp = plan.cohort.stamp("", {})
    write_parquet(plan.manifest_path(plan.cohort), frame, COHORT, stamp)


def _write_features(plan: Plan) -> None:
    stage = plan.encoders[0].features
    folder = open_folder(stage, plan.results)
    rng = np.random.default_rng(0)
    rows = []
    for row in plan.sheet.rows:
        tiles = int(rng.integers(6, 12))
        shift = 0.3 * float(row.labels.get("label") or 0.5)
        stamp = stage.stamp(row.slide_id, {"tiles": row.slide_id})
        cells = np.stack([np.arange(tiles) % 4, np.arange(tiles) // 4], axis=1)
        write_hdf5(
            folder / "slides" / f"{row.slide_id}.h5",
            {
                "features": (rng.normal(size=(tiles, DIM)) + shift).astype(np.float32),
                "coords": 256 * cells.astype(np.int64),
            },
            FEATURES,
            stamp,
            FEATURE_FACTS,
        )
        rows.append(
            manifest_row(
                row.slide_id,
                status="ok",
                item_digest=stamp.item_digest,
                count=tiles,
                path=f"slides/{row.slide_id}.h5",
            )
        )
    write_manifest(plan.manifest_path(stage), rows, stage)
