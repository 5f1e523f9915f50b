"""The comparison of a task: its cells joined, with differences, splits and figures.

Reads the cells' `predictions.parquet` and `metrics.parquet` and the task's splits. Writes
`predictions.parquet`, `comparisons.parquet` (differences between results), `controls.parquet`
(differences between slide encoders and their controls, where there are any), `splits.parquet`,
`splits.json`, figures as SVG and PNG, and, last, `metrics.parquet`.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from slidemill.artifacts.atomic import write_bytes, write_text
from slidemill.artifacts.folder import open_folder
from slidemill.artifacts.formats import COMPARISONS, METRICS, PREDICTIONS, SPLITS
from slidemill.artifacts.parquet import read_parquet, write_parquet
from slidemill.artifacts.provenance import Stamp
from slidemill.evaluate.compare import compare_rows
from slidemill.evaluate.controls import ENCODER_CONTROLS, IN_FOREST
from slidemill.evaluate.encoder_rows import RowKey, encoder_rows
from slidemill.evaluate.figures import figures_of, save
from slidemill.evaluate.models import RETRIEVAL
from slidemill.plan import Plan
from slidemill.splits.labels import read_targets
from slidemill.splits.stage import read_units
from slidemill.splits.targets import TaskType
from slidemill.splits.units import ALL, Unit

Pairs = Sequence[tuple[RowKey, RowKey]]


def run_task(plan: Plan, task: str) -> Path:
    """Join the cells of a task into one comparison; returns the path of its metrics."""
    stage = plan.evaluate[task]
    folder = open_folder(stage, plan.results)
    cells = [cell for cell in plan.cells if cell.task.name == task]
    folders = [cell.stage.folder(plan.results) for cell in cells]
    stamp = Stamp(digest=stage.digest, item_digest=stage.digest, parameters=dict(stage.parameters))

    def joined(name: str, kind: str) -> pd.DataFrame:
        return pd.concat([read_parquet(f / name, kind) for f in folders], ignore_index=True)

    predictions = joined("predictions.parquet", "predictions")
    write_parquet(folder / "predictions.parquet", predictions, PREDICTIONS, stamp)
    splits_path = plan.splits_path(task)
    splits = read_parquet(splits_path, "splits")
    write_parquet(folder / "splits.parquet", splits, SPLITS, stamp)
    text = splits_path.with_name("splits.json").read_text(encoding="utf-8")
    write_text(folder / "splits.json", text)
    metrics = joined("metrics.parquet", "metrics")
    kind = cells[0].task.type
    cohort = read_parquet(plan.manifest_path(plan.cohort), "cohort")
    names = read_targets(cohort, cells[0].task)[1].names

    def differences(rows: pd.DataFrame, sample: str, pairs: Pairs | None = None) -> pd.DataFrame:
        return compare_rows(
            rows.drop(columns="task"), kind, names, _sizes(read_units(splits), sample),
            draws=plan.config.evaluate.bootstrap, seed=plan.config.evaluate.seed, pairs=pairs,
        ).assign(task=task, sample=sample)  # fmt: skip

    results = predictions[(predictions["control"] == "") & (predictions["model"] != RETRIEVAL)]
    samples = [differences(rows, str(name)) for name, rows in results.groupby("sample", sort=True)]
    compared = pd.concat(samples, ignore_index=True)
    write_parquet(folder / "comparisons.parquet", compared, COMPARISONS, stamp)
    pairs = [pair for encoder in encoder_rows(cells) for pair in encoder.pairs()]
    if pairs:
        rows = predictions[(predictions["sample"] == ALL) & (predictions["model"] != RETRIEVAL)]
        own = differences(rows, ALL, pairs)
        write_parquet(folder / "controls.parquet", own, COMPARISONS, stamp)
    _write_figures(folder, kind, names, predictions, metrics)
    write_parquet(folder / "metrics.parquet", metrics, METRICS, stamp)
    return folder / "metrics.parquet"


def _write_figures(
    folder: Path,
    kind: TaskType,
    names: tuple[str, ...],
    predictions: pd.DataFrame,
    metrics: pd.DataFrame,
) -> None:
    """Figures of results, with those controls that do not hide them."""
    hidden = {"site", "max-features", *ENCODER_CONTROLS} - set(IN_FOREST)
    shown, judged = (
        table[(table["model"] != RETRIEVAL) & ~table["control"].isin(hidden)]
        for table in (predictions, metrics)
    )
    for name, figure in figures_of(kind, names, shown, judged).items():
        for ending, data in save(figure).items():
            write_bytes(folder / f"{name}.{ending}", data)


def _sizes(units: list[Unit], sample: str) -> dict[tuple[int, int, int], tuple[int, int]]:
    """Test and training patients of each unit of a sample, by (draw, repeat, fold)."""
    return {
        (unit.draw, unit.repeat, unit.fold): (
            len(unit.test),
            len(unit.train) + len(unit.validate),
        )
        for unit in units
        if unit.sample == sample
    }
