"""The comparison of a task: its cells joined, with differences, splits and figures.

Reads the cells' `predictions.parquet` and `metrics.parquet` and the task's splits. Writes
`predictions.parquet`, `comparisons.parquet`, `splits.parquet`, `splits.json`, figures as SVG and
PNG, and, last, `metrics.parquet`.
"""

from pathlib import Path

import pandas as pd

from slidemill.artifacts.atomic import write_bytes, write_text
from slidemill.artifacts.folder import open_folder
from slidemill.artifacts.formats import COMPARISONS, METRICS, PREDICTIONS, SPLITS
from slidemill.artifacts.parquet import read_parquet, write_parquet
from slidemill.artifacts.provenance import Stamp
from slidemill.evaluate.compare import compare_rows
from slidemill.evaluate.figures import figures_of, save
from slidemill.evaluate.models import RETRIEVAL
from slidemill.plan import Plan
from slidemill.splits.labels import read_targets
from slidemill.splits.stage import read_units
from slidemill.splits.units import Unit


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
    results = (predictions["control"] == "") & (predictions["model"] != RETRIEVAL)
    pairs = [
        compare_rows(
            rows.drop(columns="task"), kind, names, _sizes(read_units(splits), str(sample)),
            draws=plan.config.evaluate.bootstrap, seed=plan.config.evaluate.seed,
        ).assign(task=task, sample=sample)
        for sample, rows in predictions[results].groupby("sample", sort=True)
    ]  # fmt: skip
    differences = pd.concat(pairs, ignore_index=True)
    write_parquet(folder / "comparisons.parquet", differences, COMPARISONS, stamp)
    shown = (predictions["model"] != RETRIEVAL) & (predictions["control"] != "site")
    judged = (metrics["model"] != RETRIEVAL) & (metrics["control"] != "site")
    figures = figures_of(kind, names, predictions[shown], metrics[judged])
    for name, figure in figures.items():
        for ending, data in save(figure).items():
            write_bytes(folder / f"{name}.{ending}", data)
    write_parquet(folder / "metrics.parquet", metrics, METRICS, stamp)
    return folder / "metrics.parquet"


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
