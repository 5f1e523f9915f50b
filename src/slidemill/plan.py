"""The plan: the identity and the folder of every stage that a configuration asks for.

Workflow and commands both ask here, so that they never disagree about a digest.
`slidemill.planner` makes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from slidemill.artifacts.digest import bucket_of, digest_of
from slidemill.artifacts.folder import StageId
from slidemill.cohort.ages import Age, ages_or_last_seen, file_ages
from slidemill.cohort.sheet import Sheet, SheetRow
from slidemill.config import Config, ModelEntry, PretrainRun, TaskConfig
from slidemill.config.evaluate import Control, InputKind
from slidemill.evaluate.controls import ENCODER_CONTROLS
from slidemill.features.encoders import Encoder

WHOLE = "all"
"""Name of the only bucket of a stage that is not cut into buckets."""
MRXS = ".mrxs"
"""Ending of slides whose pixels are in a folder of the same name."""


@dataclass(frozen=True)
class EncoderPlan:
    """A tile encoder, the candidates and tiles that it reads, and the features that it writes."""

    encoder: Encoder
    candidates: StageId
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
    """One model on one input of one task: a row of the comparison, or all controls of an encoder.

    Attributes:
        task: The task.
        model: Its name in tables.
        entry: The model with its settings; None for retrieval.
        source: What it is given, for people: `uni`, `uni/dino` or `uni+uni/dino`.
        kind: What it is given: tiles, slides or both.
        control: Which control it is; empty for results; `controls` where it is several.
        controls: The controls of a slide encoder that it makes, a row each: they read the same
            files, and none of them is worth a job of its own. Empty for a cell of one row.
        readout: Dataset of the slides' embeddings that it reads; empty where it reads none.
        encoder: The tile encoder.
        pretrain: The slide encoders by (repeat, fold), or the one for all under (-1, -1); empty
            where no slide embedding is read.
        summary: Identity of the summary of the features.
        stage: Its identity.
    """

    task: TaskConfig
    model: str
    entry: ModelEntry | None
    source: str
    kind: InputKind
    control: str
    controls: tuple[Control, ...]
    readout: str
    encoder: EncoderPlan
    pretrain: Mapping[tuple[int, int], PretrainPlan]
    summary: StageId
    stage: StageId

    def rows(self) -> tuple["CellPlan", ...]:
        """A cell for each row that it makes: itself, or one for each of its controls."""
        return tuple(
            replace(
                self,
                control=control,
                controls=(),
                kind=ENCODER_CONTROLS[control].kind,
                readout=ENCODER_CONTROLS[control].readout,
            )
            for control in self.controls
        ) or (self,)


@dataclass(frozen=True)
class Plan:
    """Everything that a configuration asks for.

    Attributes:
        config: The configuration.
        sheet: The validated sheet.
        folder: Where the configuration's relative paths start.
        results: Folder of all results.
        cohort: Identity of the cohort stage.
        tissue: Identity of the tissue stage.
        encoders: Tile encoders in the order of the configuration.
        splits: Identity of the folds of each task, by its name.
        pretrain: Every training.
        summaries: Identity of the summary of each tile encoder's features, by its label.
        cells: Every row of every comparison.
        evaluate: Identity of each task's comparison, by its name.
        report: Identity of the report.
    """

    config: Config
    sheet: Sheet
    folder: Path
    results: Path
    cohort: StageId
    tissue: StageId
    encoders: tuple[EncoderPlan, ...]
    splits: Mapping[str, StageId]
    pretrain: tuple[PretrainPlan, ...]
    summaries: Mapping[str, StageId]
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

    @cached_property
    def candidates(self) -> dict[str, StageId]:
        """The candidates of every tiling, by the name of the tiling's folder."""
        return {plan.tiles.name: plan.candidates for plan in self.encoders}

    def all_stages(self) -> list[StageId]:
        """Every stage's identity, each once, in the order of the data."""
        stages = [
            self.cohort,
            self.tissue,
            *self.candidates.values(),
            *self.tiles.values(),
            *(unit.features for unit in self.encoders),
            *self.splits.values(),
            *(unit.stage for unit in self.pretrain),
            *(self.summaries.values() if self.cells else ()),
            *(cell.stage for cell in self.cells),
            *self.evaluate.values(),
            self.report,
        ]
        return list({(stage.stage, stage.name): stage for stage in stages}.values())

    @property
    def coordinates(self) -> Path | None:
        """Folder of imported coordinates, for `tiles.grid: import`."""
        folder = self.config.tiles.coordinates
        return self.folder / folder if folder is not None else None

    @cached_property
    def bucket_digests(self) -> dict[str, str]:
        """Digest of what the sheet says of each bucket's slides, labels left out.

        Files beside the slides count with their length and time, so that an edited one runs the
        bucket again; what it changes is found out there, by its sha256.
        """
        outlines = self._ages({row.slide_id: row.tissue for row in self.sheet.rows if row.tissue})
        places = {}
        if self.coordinates is not None:
            places = {name: f"{self.coordinates}/{name}.parquet" for name in self.slide_ids}
        coordinates = self._ages(places)
        return {
            bucket: digest_of(
                [
                    (
                        row.slide_id, row.path, row.mpp, row.tissue, row.scene, row.exclude,
                        outlines.get(row.slide_id), coordinates.get(row.slide_id),
                    )
                    for row in rows
                ]
            )
            for bucket, rows in self.buckets.items()
        }  # fmt: skip

    @cached_property
    def slide_digests(self) -> dict[str, str]:
        """Digest of the length and time of each bucket's slide files: a rescan changes it.

        An MRXS counts with the time of its folder, in which its pixels are.
        """
        ages = self.slide_ages
        return {
            bucket: digest_of([(ages[row.path], ages.get(_mrxs_folder(row.path))) for row in rows])
            for bucket, rows in self.buckets.items()
        }

    @cached_property
    def slide_ages(self) -> dict[str, Age | None]:
        """Length and time of every slide file and MRXS folder; as last seen where it is gone."""
        files = [row.path for row in self.sheet.rows]
        folders = [_mrxs_folder(path) for path in files]
        return ages_or_last_seen([*files, *filter(None, folders)], self.ages_path)

    def _ages(self, paths: Mapping[str, str]) -> dict[str, Age | None]:
        return dict(zip(paths, file_ages(list(paths.values())), strict=True))

    @property
    def ages_path(self) -> Path:
        """Where a run keeps what it saw of the slides' files."""
        return self.cohort.folder(self.results) / "ages.json"

    def sheet_digest(self) -> str:
        """Digest of the whole sheet."""
        return digest_of(
            [
                (
                    row.slide_id,
                    row.path,
                    row.patient_id,
                    row.mpp,
                    row.split,
                    row.scene,
                    row.exclude,
                    dict(row.labels),
                )
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

    def summary_path(self, stage: StageId) -> Path:
        """The last file that a summary of features writes."""
        return stage.folder(self.results) / "summary.parquet"

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

    def retry_flag(self, stage: str, run: str, bucket: str) -> Path:
        """File whose age says when the failed slides of a bucket were asked for again."""
        return self.results / "recompute" / "failed" / stage / run / bucket

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
        paths = [self.summary_path(cell.summary), self.splits_path(cell.task.name)]
        return paths + [self.manifest_path(unit.stage) for unit in cell.pretrain.values()]

    def comparison_inputs(self, task: str) -> list[Path]:
        """What the comparison of a task waits for."""
        return [self.metrics_path(cell.stage) for cell in self.cells if cell.task.name == task]


def _mrxs_folder(path: str) -> str:
    """The folder that has the pixels of an MRXS; empty for other slides."""
    return path[: -len(MRXS)] if path.lower().endswith(MRXS) else ""
