"""The report stage: everything of a run on one page.

Reads the artifacts of all stages, and the pixels of the three slides that it shows. Writes
`report.html`, self-contained. Apart from its last table, which names the run, the page depends on
the artifacts alone.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from slidemill.artifacts.atomic import write_text
from slidemill.artifacts.folder import StageId
from slidemill.artifacts.hdf5 import open_hdf5
from slidemill.artifacts.manifest import read_manifest, records
from slidemill.artifacts.parquet import read_parquet
from slidemill.artifacts.provenance import PRODUCER, package_versions
from slidemill.plan import CellPlan, Plan
from slidemill.report.choice import choose_slides
from slidemill.report.figures import attention_overlay, histogram, jpeg, loss_curves
from slidemill.report.heatmap import tile_boxes
from slidemill.report.html import ReportPage, SlideSection, render
from slidemill.report.rows import remarks_of
from slidemill.report.tasks import task_section
from slidemill.slides.overview import read_picture
from slidemill.slides.reader import Slide
from slidemill.tiles.stage import read_tiles

PICTURE_PX = 900
"""Longest edge of a slide's picture, pixels."""


def run(plan: Plan, folder: Path) -> Path:
    """Write the report of a run; returns its path."""
    cohort = read_parquet(plan.manifest_path(plan.cohort), "cohort")
    manifest = read_manifest(plan.manifest_path(plan.encoders[0].features))
    tissue = read_manifest(plan.manifest_path(plan.tissue))
    cell = next((c for c in plan.cells if c.entry and c.entry.name == "abmil"), None)
    page = ReportPage(
        cohort=plan.config.cohort.sheet,
        facts=_facts(plan, cohort, manifest),
        protocol=_protocol(plan) if plan.evaluate else [],
        tasks=[task_section(plan, name) for name in plan.evaluate],
        slides=_slides(plan, cohort, manifest, cell),
        attention_of=f"{cell.model} on {cell.source}" if cell else "",
        cohort_rows=_cohort_rows(plan, cohort),
        tiles_svg=_tiles_svg(manifest),
        failures=[row for row in records(manifest) if row["status"] == "failed"],
        remarks=remarks_of({"cohort": cohort, "tissue": tissue}),
        pretraining=_pretraining(plan),
        loss_svg=_loss_svg(plan),
        stages=[_stage(stage) for stage in _all_stages(plan)],
        footer=_footer(plan),
    )
    path = folder / "report.html"
    write_text(path, render(page))
    return path


def _facts(plan: Plan, cohort: pd.DataFrame, manifest: pd.DataFrame) -> list[tuple[str, str]]:
    done = manifest[manifest["status"] == "ok"]
    return [
        ("slides", f"{len(cohort):,}"),
        ("patients", f"{cohort['patient_id'].nunique():,}"),
        ("slides failed", f"{len(manifest) - len(done):,}"),
        ("tiles kept", f"{int(done['count'].sum()):,}"),
        ("tile encoders", str(len(plan.encoders))),
        ("slide encoders", str(len(plan.pretrain))),
    ]


def _protocol(plan: Plan) -> list[str]:
    config = plan.config.evaluate
    times = f", repeated {config.repeats} times" if config.repeats > 1 else ""
    folds = {
        "k-fold": f"{config.folds}-fold cross-validation{times}: label-stratified folds, grouped "
        "by patient",
        "split": f"The sheet's split column{times}",
        "leave-one-site-out": f"One site of {config.site} left out at a time{times}",
    }[config.protocol]
    folds = "The user's own splits" if config.splits else folds
    several = {
        "mean": "Predictions of a patient's slides are averaged.",
        "joint-bag": "A patient's slides are one bag.",
        "one": "Of a patient with several slides the one with the most tiles counts.",
    }[config.patient]
    sentences = [
        f"{folds}; all models see the same ones. Seed {config.seed}.",
        f"{several} Metrics are over patients, on predictions pooled over the folds.",
        f"95 % intervals: bias-corrected percentiles of {config.bootstrap} draws of patients; "
        "differences are paired on the same draws. The variance of training is not in them.",
        "p: corrected resampled t-test over folds (Nadeau & Bengio 2003); Holm's over all pairs.",
        "Features are standardised on the training folds; classes are weighted to balance, unless "
        "class_weight says otherwise. Strengths of probes are chosen on inner folds.",
    ]
    policies = {
        "per-fold": "was trained once a fold and never saw that fold's test patients",
        "split": "was trained on rows with split = pretrain, none of whose patients is tested",
        "all": "saw the test patients, without their labels: its results are optimistic",
    }
    for run_ in plan.config.pretrain.runs:
        sentences.append(f"Slide encoder {run_.name} {policies[run_.patients]}.")
    return sentences


def _slides(
    plan: Plan, cohort: pd.DataFrame, manifest: pd.DataFrame, cell: CellPlan | None
) -> list[SlideSection]:
    facts = {row["slide_id"]: row for row in records(cohort)}
    counts = {r["slide_id"]: int(r["count"]) for r in records(manifest) if r["status"] == "ok"}
    predictions = None
    if cell is not None:
        path = cell.stage.folder(plan.results) / "predictions.parquet"
        predictions = read_parquet(path, "predictions")
    sections = []
    for choice in choose_slides(list(counts), predictions):
        row = facts[choice.slide_id]
        overlay = plan.tissue.folder(plan.results) / "slides" / f"{choice.slide_id}.jpg"
        sections.append(
            SlideSection(
                title=choice.title,
                slide_id=choice.slide_id,
                patient_id=str(row["patient_id"]),
                label=", ".join(str(row[c]) for c in cell.task.columns) if cell else "",
                score=choice.score,
                tiles=counts[choice.slide_id],
                overlay=jpeg(Image.open(overlay), PICTURE_PX),
                attention=_attention(plan, cell, row) if cell else None,
            )
        )
    return sections


def _attention(plan: Plan, cell: CellPlan, row: dict[str, Any]) -> bytes | None:
    slide_id = str(row["slide_id"])
    path = cell.stage.folder(plan.results) / "slides" / f"{slide_id}.h5"
    if not path.is_file():
        return None
    with open_hdf5(path, "attention") as file:
        weights: npt.NDArray[np.float32] = file["attention"][:]
        coords: npt.NDArray[np.int64] = file["coords"][:]
    tiles = cell.encoder.tiles.folder(plan.results) / "slides" / f"{slide_id}.parquet"
    _, geometry = read_tiles(tiles)
    with Slide.of(row) as slide:
        seen = read_picture(slide, PICTURE_PX)
    boxes = tile_boxes(coords, geometry, seen.scale, seen.corner)
    return attention_overlay(seen.pixels, boxes, weights)


def _cohort_rows(plan: Plan, cohort: pd.DataFrame) -> list[tuple[str, str]]:
    def counts(column: str) -> str:
        found = cohort[column].dropna().astype(str).value_counts().sort_index()
        return ", ".join(f"{value}: {n}" for value, n in found.items()) or "none"

    opened = cohort[cohort["mpp_x"].notna()]
    rows = [
        ("resolution from", counts("mpp_source")),
        ("vendors", counts("vendor")),
    ]
    if len(opened):
        rows.append(("um per pixel", f"{opened['mpp_x'].min():.4g} to {opened['mpp_x'].max():.4g}"))
    slides_of = cohort.groupby("patient_id").size()
    rows.append(("slides a patient", f"{slides_of.min()} to {slides_of.max()}"))
    few = [c for c in plan.sheet.label_columns if cohort[c].nunique() <= 12]
    return rows + [(f"{column} (slides)", counts(column)) for column in few]


def _tiles_svg(manifest: pd.DataFrame) -> str:
    done = manifest.loc[manifest["status"] == "ok", "count"]
    return histogram(done.to_numpy(np.int64), "tiles a slide") if len(done) else ""


def _pretraining(plan: Plan) -> list[str]:
    sentences = []
    for run_ in plan.config.pretrain.runs:
        count = sum(unit.run.name == run_.name for unit in plan.pretrain)
        sentences.append(
            f"{run_.name}: {run_.method}, {count} encoders of {run_.depth} layers x {run_.width}, "
            f"{run_.attention} attention, "
            f"{run_.epochs} epochs, {run_.batch_slides} slides a step, patients: {run_.patients}."
        )
    return sentences


def _loss_svg(plan: Plan) -> str:
    curves: dict[str, list[npt.NDArray[np.float64]]] = {}
    for unit in plan.pretrain:
        path = unit.stage.folder(plan.results) / "metrics.parquet"
        metrics = read_parquet(path, "pretrain-metrics")
        label = f"{unit.run.name} on {unit.encoder.encoder.label}"
        losses = metrics.groupby("epoch")["loss"].mean().to_numpy(np.float64)
        curves.setdefault(label, []).append(losses)
    return loss_curves(dict(curves)) if curves else ""


def _all_stages(plan: Plan) -> list[StageId]:
    return [
        plan.cohort,
        plan.tissue,
        *plan.tiles.values(),
        *(unit.features for unit in plan.encoders),
        *plan.splits.values(),
        *(unit.stage for unit in plan.pretrain),
        *(cell.stage for cell in plan.cells),
        *plan.evaluate.values(),
    ]


def _stage(stage: StageId) -> dict[str, str]:
    return {
        "stage": stage.stage,
        "folder": f"{stage.stage}/{stage.name}",
        "digest": stage.digest,
        "parameters": json.dumps(dict(stage.parameters), indent=2, sort_keys=True),
    }


def _footer(plan: Plan) -> list[tuple[str, str]]:
    rows = [("written by", PRODUCER)]
    records_ = sorted((plan.results / "runs").glob("*.json"))
    if records_:
        found = json.loads(records_[-1].read_text(encoding="utf-8"))
        rows += [
            ("run started", found["started"]),
            ("command", " ".join(found["command"])),
            ("commit", found["commit"] or "unknown"),
        ]
    versions = ", ".join(f"{name} {v}" for name, v in package_versions().items())
    return [*rows, ("versions", versions)]
