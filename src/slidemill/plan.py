"""The plan: from a configuration and a sheet to the identity and the folder of every stage.

Workflow and commands both ask here, so that they never disagree about a digest. Reads the
configuration, the sheet and the weights' digests; opens no slide and imports no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from slidemill import versions
from slidemill.artifacts import formats
from slidemill.artifacts.digest import bucket_of, digest_of, file_sha256
from slidemill.artifacts.folder import StageId
from slidemill.cohort.sheet import Sheet, SheetRow, read_sheet
from slidemill.config import Config, PretrainRun, TaskConfig, TilesConfig
from slidemill.errors import ConfigError, Problem
from slidemill.features.encoders import Encoder, resolve

BATCH_ONLY = {"name"}
"""Keys of a run or a task that label it and change no value."""


@dataclass(frozen=True)
class EncoderPlan:
    """A tile encoder, the tiles it reads and the features it writes."""

    encoder: Encoder
    tiles: StageId
    features: StageId


@dataclass(frozen=True)
class PretrainPlan:
    """One training of one slide encoder.

    Attributes:
        run: Its settings.
        encoder: The tile encoder whose features it reads.
        task: The task whose folds it keeps to; None unless it is trained per fold.
        repeat: Repetition of those folds; -1 unless it is trained per fold.
        fold: The fold whose patients it never sees; -1 unless it is trained per fold.
        stage: Its identity.
    """

    run: PretrainRun
    encoder: EncoderPlan
    task: str | None
    repeat: int
    fold: int
    stage: StageId


@dataclass(frozen=True)
class CellPlan:
    """One model on one input of one task: a row of the comparison.

    Attributes:
        task: The task.
        model: The model.
        source: What the model is given, for people: `hed-texture` or `hed-texture/dino`.
        encoder: The tile encoder.
        pretrain: The slide encoders by (repeat, fold), or the one for all under (-1, -1); empty
            where the model reads tile features.
        stage: Its identity.
    """

    task: TaskConfig
    model: Literal["abmil", "linear-probe"]
    source: str
    encoder: EncoderPlan
    pretrain: Mapping[tuple[int, int], PretrainPlan]
    stage: StageId


@dataclass(frozen=True)
class Plan:
    """Everything that a configuration asks for.

    Attributes:
        config: The configuration.
        sheet: The validated sheet.
        results: Folder of all results.
        cohort: Identity of the cohort stage.
        tissue: Identity of the tissue stage.
        encoders: Tile encoders in the order of the configuration.
        splits: Identity of the folds of each task, by its name.
        pretrain: Every training.
        cells: Every row of the comparison.
        evaluate: Identity of each task's comparison, by its name.
        report: Identity of the report.
    """

    config: Config
    sheet: Sheet
    results: Path
    cohort: StageId
    tissue: StageId
    encoders: tuple[EncoderPlan, ...]
    splits: Mapping[str, StageId]
    pretrain: tuple[PretrainPlan, ...]
    cells: tuple[CellPlan, ...]
    evaluate: Mapping[str, StageId]
    report: StageId

    @cached_property
    def buckets(self) -> dict[str, list[SheetRow]]:
        """Slides by bucket, as `<number>-of-<count>`; empty buckets are left out."""
        count = self.config.buckets
        found: dict[int, list[SheetRow]] = {}
        for row in self.sheet.rows:
            found.setdefault(bucket_of(row.slide_id, count), []).append(row)
        return {f"{number}-of-{count}": found[number] for number in sorted(found)}

    @cached_property
    def slide_ids(self) -> list[str]:
        """Every slide in the order of the sheet."""
        return [row.slide_id for row in self.sheet.rows]

    @cached_property
    def tiles(self) -> dict[str, StageId]:
        """Distinct tilings by the name of their folder."""
        return {plan.tiles.name: plan.tiles for plan in self.encoders}

    def bucket_digest(self, bucket: str) -> str:
        """Digest of what the sheet says of a bucket's slides, labels left out."""
        return digest_of(
            [
                [row.slide_id, str(row.path), row.mpp, str(row.tissue)]
                for row in self.buckets[bucket]
            ]
        )

    def sheet_digest(self) -> str:
        """Digest of the whole sheet."""
        return digest_of(
            [
                [row.slide_id, str(row.path), row.patient_id, row.mpp, row.split, dict(row.labels)]
                for row in self.sheet.rows
            ]
        )

    def bucket_path(self, stage: StageId, bucket: str) -> Path:
        """The manifest of a bucket."""
        return stage.folder(self.results) / "buckets" / f"{bucket}.parquet"

    def manifest_path(self, stage: StageId) -> Path:
        """The manifest of a per-slide stage, or the cohort's table."""
        name = "cohort.parquet" if stage.stage == "cohort" else "manifest.parquet"
        return stage.folder(self.results) / name

    def metrics_path(self, stage: StageId) -> Path:
        """The last file that a cell or a comparison writes."""
        return stage.folder(self.results) / "metrics.parquet"

    def splits_path(self, task: str) -> Path:
        """The folds of a task."""
        return self.splits[task].folder(self.results) / "splits.parquet"

    def report_path(self) -> Path:
        """The report."""
        return self.report.folder(self.results) / "report.html"

    def recompute_flag(self, stage: str) -> Path:
        """File whose age says since when results of a stage count."""
        return self.results / "recompute" / stage

    def targets(self, stage: str) -> list[Path]:
        """What has to be there for a stage to be complete."""
        cohort = [self.manifest_path(self.cohort)]
        tissue = [*cohort, self.manifest_path(self.tissue)]
        tiles = [*tissue, *(self.manifest_path(one) for one in self.tiles.values())]
        features = [*tiles, *(self.manifest_path(unit.features) for unit in self.encoders)]
        return {
            "cohort": cohort,
            "tissue": tissue,
            "tiles": tiles,
            "features": features,
            "pretrain": [self.manifest_path(unit.stage) for unit in self.pretrain],
            "evaluate": [self.metrics_path(one) for one in self.evaluate.values()],
            "report": [self.report_path()],
        }[stage]

    def pretrain_inputs(self, unit: PretrainPlan) -> list[Path]:
        """What a training waits for."""
        paths = [self.manifest_path(self.cohort), self.manifest_path(unit.encoder.features)]
        return paths + ([self.splits_path(unit.task)] if unit.task else [])

    def cell_inputs(self, cell: CellPlan) -> list[Path]:
        """What a model waits for."""
        paths = [self.manifest_path(cell.encoder.features), self.splits_path(cell.task.name)]
        return paths + [self.manifest_path(unit.stage) for unit in cell.pretrain.values()]

    def comparison_inputs(self, task: str) -> list[Path]:
        """What the comparison of a task waits for."""
        return [self.metrics_path(cell.stage) for cell in self.cells if cell.task.name == task]


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
    sheet = read_sheet(folder / config.cohort.sheet)
    _check_against_sheet(config, sheet)
    cohort = StageId(
        "cohort",
        sheet.path.stem,
        formats.COHORT,
        versions.COHORT,
        {"missing_mpp": config.cohort.missing_mpp},
    )
    tissue = StageId(
        "tissue",
        config.tissue.method,
        formats.TISSUE,
        versions.TISSUE,
        config.tissue.model_dump(mode="json"),
        (cohort,),
    )
    encoders = tuple(
        _plan_encoder(config, resolve(entry, folder), tissue) for entry in config.features.entries()
    )
    splits = {
        task.name: _plan_splits(config, task, sheet, folder) for task in config.evaluate.tasks
    }
    pretrain = tuple(_plan_pretrain(config, encoders, splits, sheet))
    cells = tuple(_plan_cells(config, encoders, splits, pretrain))
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
    rows = {"sheet": _rows_digest(sheet)}
    report = StageId("report", "report", formats.METRICS, versions.REPORT, rows, above)
    return Plan(
        config, sheet, folder / config.results, cohort, tissue, encoders, splits, pretrain, cells,
        evaluate, report,
    )  # fmt: skip


def _check_against_sheet(config: Config, sheet: Sheet) -> None:
    """Refuse a configuration that asks for columns which the sheet does not have."""
    problems = []
    for number, task in enumerate(config.evaluate.tasks):
        if task.column not in sheet.label_columns:
            has = ", ".join(sheet.label_columns) or "none"
            what = f"the sheet has no label column {task.column!r}"
            problems.append(Problem(f"evaluate.tasks.{number}.column", what, f"It has: {has}"))
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
    tiles = StageId(
        "tiles",
        f"{tile_px}px-{mpp:g}mpp",
        formats.TILES,
        versions.TILES,
        {
            "tile_px": tile_px,
            "mpp": mpp,
            "overlap_px": config.tiles.overlap_px,
            "min_tissue": config.tiles.min_tissue,
            "grid": config.tiles.grid,
        },
        (tissue,),
    )
    precision = config.features.precision if encoder.spec.needs_weights else "fp32"
    features = StageId(
        "features",
        encoder.label,
        formats.FEATURES,
        versions.FEATURES,
        {
            "encoder": encoder.spec.name,
            "encoder_version": encoder.spec.algorithm_version,
            "weights_sha256": encoder.weights_sha256,
            "precision": precision,
        },
        (tiles,),
    )
    return EncoderPlan(encoder, tiles, features)


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


def _plan_splits(config: Config, task: TaskConfig, sheet: Sheet, folder: Path) -> StageId:
    evaluate = config.evaluate
    parameters: dict[str, object] = {
        "task": task.model_dump(mode="json", exclude=BATCH_ONLY),
        "folds": evaluate.folds,
        "repeats": evaluate.repeats,
        "seed": evaluate.seed,
        "rows": digest_of(
            sorted([r.slide_id, r.patient_id, r.labels.get(task.column)] for r in sheet.rows)
        ),
    }
    if evaluate.splits is not None:
        path = folder / evaluate.splits
        if not path.is_file():
            problem = Problem("evaluate.splits", f"{path}: there is no such file", "Mend the path")
            raise ConfigError("of this run", [problem])
        parameters["given"] = file_sha256(path)
    return StageId("splits", task.name, formats.SPLITS, versions.SPLITS, parameters)


def _rows_digest(sheet: Sheet) -> str:
    """Digest of who the slides are, for stages that read the whole cohort."""
    return digest_of(sorted([row.slide_id, row.patient_id, row.split or ""] for row in sheet.rows))


def _plan_pretrain(
    config: Config,
    encoders: Sequence[EncoderPlan],
    splits: Mapping[str, StageId],
    sheet: Sheet,
) -> list[PretrainPlan]:
    plans = []
    rows = _rows_digest(sheet)
    folds = [
        (task.name, repeat, fold)
        for task in config.evaluate.tasks
        for repeat in range(config.evaluate.repeats)
        for fold in range(config.evaluate.folds)
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


def _plan_cells(
    config: Config,
    encoders: Sequence[EncoderPlan],
    splits: Mapping[str, StageId],
    pretrain: Sequence[PretrainPlan],
) -> list[CellPlan]:
    evaluate = config.evaluate
    cells = []
    for task in evaluate.tasks:
        for model in evaluate.models:
            settings = evaluate.abmil if model == "abmil" else evaluate.linear_probe
            parameters = {
                "task": task.model_dump(mode="json", exclude=BATCH_ONLY),
                "model": model,
                "settings": settings.model_dump(mode="json"),
                "seed": evaluate.seed,
            }
            for encoder in encoders:
                for source, encoders_of_folds in _inputs(model, task, encoder, pretrain):
                    upstream = (
                        splits[task.name],
                        encoder.features,
                        *(plan.stage for plan in encoders_of_folds.values()),
                    )
                    label = f"{task.name}-{model}-{source}".replace("/", "-").replace(":", "-")
                    stage = StageId(
                        "evaluate", label, formats.PREDICTIONS, versions.EVALUATE, parameters,
                        upstream,
                    )  # fmt: skip
                    cells.append(CellPlan(task, model, source, encoder, encoders_of_folds, stage))
    return cells


def _inputs(
    model: str, task: TaskConfig, encoder: EncoderPlan, pretrain: Sequence[PretrainPlan]
) -> list[tuple[str, dict[tuple[int, int], PretrainPlan]]]:
    """What a model is run on: tile features, and for a probe every slide encoder's embeddings."""
    name = encoder.encoder.label
    found: dict[str, dict[tuple[int, int], PretrainPlan]] = {name: {}}
    if model == "linear-probe":
        for plan in pretrain:
            if plan.encoder is encoder and plan.task in (None, task.name):
                source = f"{name}/{plan.run.name}"
                found.setdefault(source, {})[plan.repeat, plan.fold] = plan
    return list(found.items())
