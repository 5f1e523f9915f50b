"""Making a plan: from a configuration and a sheet to the identity of every stage.

Reads the configuration, the sheet and the weights' digests; opens no slide and imports no torch.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from slidemill import versions
from slidemill.artifacts import formats
from slidemill.artifacts.digest import digest_of, file_sha256
from slidemill.artifacts.folder import StageId
from slidemill.cohort.sheet import Sheet, read_sheet
from slidemill.config import Config, FeaturesConfig, TilesConfig
from slidemill.errors import ConfigError, Problem
from slidemill.features.encoders import Encoder, check_fit, resolve
from slidemill.plan import EncoderPlan, Plan, PretrainPlan
from slidemill.planner_evaluate import (
    check_evaluate,
    folds_of,
    plan_cells,
    plan_splits,
    plan_summary,
)
from slidemill.splits.classes import check_labels
from slidemill.tiles.keep import Limits

log = logging.getLogger(__name__)

LIMITS = {field.name for field in fields(Limits)}
"""Keys of `tiles` that choose among candidates and measure nothing."""
BATCH_ONLY = {"name"}
"""Keys of a run or a task that label it and change no value."""


def make_plan(config: Config, folder: Path) -> Plan:
    """Plan what a configuration asks for.

    Args:
        config: The configuration.
        folder: Where its relative paths start.

    Raises:
        SheetError: If the sheet is not valid.
        ConfigError: If the configuration does not fit the sheet or the encoders.
        WeightsError: If weights are not on this machine.
    """
    settings = config.cohort
    sheet = read_sheet(folder / settings.sheet, settings.missing_values, settings.twins)
    for note in sheet.notes:
        log.info("%s", note)
    _check_against_sheet(config, sheet)
    cohort = StageId(
        "cohort",
        sheet.path.stem,
        formats.COHORT,
        versions.COHORT,
        {"missing_mpp": config.cohort.missing_mpp, "reader": config.cohort.reader},
    )
    tissue = _plan_tissue(config, folder, cohort)
    encoders = tuple(
        _plan_encoder(config, resolve(entry, folder), tissue) for entry in config.features.entries()
    )
    splits = {task.name: plan_splits(config, task, sheet, folder) for task in config.evaluate.tasks}
    rows = _rows_digest(sheet)
    pretrain = tuple(_plan_pretrain(config, encoders, splits, sheet, folder, rows))
    summaries = {unit.encoder.label: plan_summary(unit) for unit in encoders}
    cells = tuple(plan_cells(config, encoders, summaries, splits, pretrain))
    evaluate = {
        task.name: StageId(
            "evaluate",
            task.name,
            formats.METRICS,
            versions.EVALUATE,
            {"bootstrap": config.evaluate.bootstrap, "seed": config.evaluate.seed},
            tuple(cell.stage for cell in cells if cell.task.name == task.name),
        )
        for task in config.evaluate.tasks
    }
    above = (tissue, *(plan.features for plan in encoders), *evaluate.values())
    report = StageId("report", "report", formats.METRICS, versions.REPORT, {"sheet": rows}, above)
    return Plan(
        config, sheet, folder, folder / config.results, cohort, tissue, encoders, splits, pretrain,
        summaries, cells, evaluate, report,
    )  # fmt: skip


def _plan_tissue(config: Config, folder: Path, cohort: StageId) -> StageId:
    method = config.tissue.method
    parameters = config.tissue.model_dump(mode="json", exclude={"unet"})
    if method == "unet":
        unet = config.tissue.unet
        path = folder / str(unet.checkpoint)
        if not path.is_file():
            problem = Problem("tissue.unet.checkpoint", f"{path}: no such file", "Fix the path")
            raise ConfigError("of this run", [problem])
        parameters["unet"] = unet.model_dump(mode="json", exclude={"checkpoint", "device"})
        parameters["weights_sha256"] = file_sha256(path)
    return StageId("tissue", method, formats.TISSUE, versions.TISSUE, parameters, (cohort,))


def _check_against_sheet(config: Config, sheet: Sheet) -> None:
    """Refuse a configuration that asks for columns which the sheet does not have."""
    problems = []
    if config.tissue.method == "import" and not any(row.tissue for row in sheet.rows):
        what = "import, and the sheet has no tissue column with files"
        problems.append(Problem("tissue.method", what, "Add the column, or choose another method"))
    problems += list(check_evaluate(config, sheet))
    problems += list(check_labels(config, sheet))
    if not sheet.has_patients and config.evaluate.tasks:
        what = f"{sheet.path.name} has no column patient_id, and an evaluation keeps patients apart"
        has = ", ".join(sheet.label_columns) or "none"
        todo = f"Add it, or rename the column that is it (other columns: {has})"
        problems.append(Problem("cohort.sheet", what, todo))
    trains = {row.split for row in sheet.rows}
    for number, run in enumerate(config.pretrain.runs):
        where = f"pretrain.runs.{number}.patients"
        if run.patients == "split" and "pretrain" not in trains:
            what = "no row of the sheet has split = pretrain"
            problems.append(Problem(where, what, "Fill the sheet's split column, or use per-fold"))
        if run.patients == "per-fold" and not config.evaluate.tasks:
            what = "per-fold needs folds, and there is no task"
            problems.append(Problem(where, what, "Add one to evaluate.tasks, or use all or split"))
    if problems:
        raise ConfigError("of this run", problems)


def _plan_encoder(config: Config, encoder: Encoder, tissue: StageId) -> EncoderPlan:
    tile_px, mpp = _tile_size(config.tiles, encoder)
    check_fit(encoder, tile_px, config.features.tokens)
    label = f"{tile_px}px-{mpp:g}mpp"
    settings = config.tiles
    candidates = StageId(
        "candidates",
        label,
        formats.CANDIDATES,
        versions.CANDIDATES,
        {
            "tile_px": tile_px,
            "mpp": mpp,
            "overlap_px": settings.overlap_px,
            "grid": settings.grid,
            "qc": settings.qc,
        },
        (tissue,),
    )
    limits = settings.model_dump(mode="json", include=LIMITS)
    tiles = StageId("tiles", label, formats.TILES, versions.TILES, limits, (candidates,))
    features = StageId(
        "features",
        encoder.label,
        formats.FEATURES,
        versions.FEATURES,
        _feature_parameters(config.features, encoder),
        (tiles,),
    )
    return EncoderPlan(encoder, candidates, tiles, features)


def _feature_parameters(config: FeaturesConfig, encoder: Encoder) -> dict[str, Any]:
    """What decides a tile's feature; `auto` is resolved here, whatever machine will run it."""
    spec = encoder.spec
    precision = spec.precision if config.precision == "auto" else config.precision
    if not spec.needs_weights:
        precision = "fp32"
    dtype = config.dtype
    if dtype == "auto":
        dtype = "float32" if precision == "fp32" else "float16"
    return {
        "encoder": spec.recipe(),
        "output": encoder.output,
        "weights_sha256": encoder.weights_sha256,
        "precision": precision,
        "dtype": dtype,
        "tokens": config.tokens and spec.needs_weights,
    }


def _tile_size(tiles: TilesConfig, encoder: Encoder) -> tuple[int, float]:
    """Tile size in pixels and um per pixel, `auto` resolved."""
    spec, mpp = encoder.spec, tiles.resolved_mpp()
    unknown = [
        key
        for key, value, own in (("tile_px", tiles.tile_px, spec.tile_px), ("mpp", mpp, spec.mpp))
        if value == "auto" and own is None
    ]
    if unknown:
        what = f"auto, but what {spec.name} was trained on is not known"
        raise ConfigError(
            "config", [Problem(f"tiles.{key}", what, "Give a number") for key in unknown]
        )
    tile_px = spec.tile_px if tiles.tile_px == "auto" else tiles.tile_px
    resolved = spec.mpp if mpp == "auto" else mpp
    assert tile_px is not None
    assert resolved is not None
    return tile_px, float(resolved)


def _rows_digest(sheet: Sheet) -> str:
    """Digest of who the slides are, for stages that read the whole cohort."""
    return digest_of(sorted((row.slide_id, row.patient_id, row.split or "") for row in sheet.rows))


def _plan_pretrain(
    config: Config,
    encoders: Sequence[EncoderPlan],
    splits: Mapping[str, StageId],
    sheet: Sheet,
    folder: Path,
    rows: str,
) -> list[PretrainPlan]:
    plans = []
    folds = [
        (task.name, repeat, fold)
        for task in config.evaluate.tasks
        for repeat, fold in folds_of(config.evaluate, task, sheet, folder)
    ]
    for run in config.pretrain.runs:
        units = folds if run.patients == "per-fold" else [(None, -1, -1)]
        for encoder in encoders:
            for task, repeat, fold in units:
                label = f"{run.name}-{encoder.encoder.label}"
                upstream: tuple[StageId, ...] = (encoder.features,)
                if task is not None:
                    label += f"-{task}-r{repeat}f{fold}"
                    upstream += (splits[task],)
                parameters = run.model_dump(mode="json", exclude=BATCH_ONLY)
                parameters |= {"rows": rows, "repeat": repeat, "fold": fold}
                stage = StageId(
                    "pretrain", label, formats.EMBEDDING, versions.PRETRAIN, parameters, upstream
                )
                plans.append(PretrainPlan(run, encoder, task, repeat, fold, stage))
    return plans
