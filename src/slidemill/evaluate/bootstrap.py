"""Tables of metrics: estimates with 95 % intervals over patients, and single folds without.

Reads rows of the format `predictions`, gives rows of the format `metrics`, both version 2. What the
estimates and intervals are, and what they are not, is said in `slidemill.evaluate.resample`. The
same predictions, in any order, give the same table.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from slidemill.errors import CohortError
from slidemill.evaluate.metrics import Metric, metrics_of
from slidemill.evaluate.metrics.base import constant, weighted_mean
from slidemill.evaluate.names import metric_label
from slidemill.evaluate.panel import ALL_TARGETS, Panel, make_panels
from slidemill.evaluate.panel import patient_predictions as patient_predictions
from slidemill.evaluate.resample import Summary, draw_weights, macro, summarise
from slidemill.splits.targets import EVENT, Float64Array, Int64Array, TaskType

MACRO = "macro"
"""Target of means over the labels of a multilabel task."""

OVERALL = (-1, -1, -1)
"""Draw, repeat and fold of rows over all folds."""

COLUMNS = (
    "target",
    "metric",
    "draw",
    "repeat",
    "fold",
    "estimate",
    "low",
    "high",
    "chance",
    "n_patients",
    "n_positive",
    "n_missing",
)
"""Columns of a table of metrics: those of the format `metrics` from `target` on."""


@dataclass(frozen=True)
class _Cell:
    """A metric of one target, over all folds or in one.

    Attributes:
        summary: The metric; without draws for a single fold.
        chance: What guessing gives; nan where there is no such number.
        patients: Positions of the patients that it is over, int64.
        positive: Positive patients or events among them; -1 where there is no such thing.
    """

    summary: Summary
    chance: float
    patients: Int64Array
    positive: int


def row_metrics(
    predictions: pd.DataFrame,
    task_type: TaskType,
    names: Sequence[str],
    *,
    draws: int,
    seed: int,
    missing: Mapping[str, int],
) -> pd.DataFrame:
    """Metrics of one row of a comparison: one model, input, control and sample.

    Args:
        predictions: Its rows of the format `predictions`; rows whose label is missing are not
            among them.
        task_type: Type of the task.
        names: What each score is of, as in `Targets.names`.
        draws: Draws of patients; the same ones for all groups, metrics and labels.
        seed: Seed of the draws, not negative.
        missing: Patients left out because their label is missing, by target: the label, `macro`
            (no label at all), or `all` for tasks other than multilabel. None is 0.

    Returns:
        `COLUMNS`. First a row for every metric and target over all folds (draw, repeat and fold are
        -1), then one for every draw, repetition and fold, without interval. Targets are the labels
        and `macro` for multilabel tasks, and `all` for others. Missing patients have no fold, so
        that those rows count none.

    Raises:
        CohortError: If there are no predictions.
        ValueError: If missing names another target, or as for `make_panels`.
    """
    panels = make_panels(predictions, task_type, names)
    targets = {*panels, MACRO} if task_type == "multilabel" else set(panels)
    if not set(missing) <= targets:
        raise ValueError(f"missing counts of {sorted(missing)}, but targets are {sorted(targets)}")
    weights = draw_weights(len(next(iter(panels.values())).patients), draws, seed)
    metrics = metrics_of(task_type).values()
    rows = [row for metric in metrics for row in _overall_rows(panels, task_type, metric, weights)]
    for row in rows:
        row["n_missing"] = missing.get(str(row["target"]), 0)
    rows += [row for metric in metrics for row in _fold_rows(panels, task_type, metric)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def retrieval_row_metrics(predictions: pd.DataFrame, *, draws: int, seed: int) -> pd.DataFrame:
    """Metrics of a row of retrieval: means over patients, of the means over their slides.

    Args:
        predictions: Rows of the format `predictions` whose target is the name of a metric, such as
            `acc@5`, and whose score is the query's value.
        draws: Draws of patients.
        seed: Seed of the draws, not negative.

    Returns:
        `COLUMNS`, one row a metric over all folds; the target is `all`.

    Raises:
        CohortError: If there are no predictions.
        ValueError: As for `make_panels`.
    """
    if predictions.empty:
        raise CohortError("there are no queries: no patient with a label has a usable slide.")
    rows = []
    for name in dict.fromkeys(predictions["target"]):
        mine = predictions[predictions["target"] == name].assign(label=0.0)
        panels = make_panels(mine, "regression", (name,))
        weights = draw_weights(len(panels[ALL_TARGETS].patients), draws, seed)
        mean = Metric(name, metric_label(name), _mean_score, _weighted_score, constant(None))
        rows += _overall_rows(panels, "regression", mean, weights)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _overall_rows(
    panels: Mapping[str, Panel], task_type: TaskType, metric: Metric, weights: Int64Array
) -> list[dict[str, object]]:
    """A row over all folds for each target."""
    cells = {
        target: _cell(
            summarise(panel, metric, weights), metric, task_type, panel.tested(), panel.y()
        )
        for target, panel in panels.items()
    }
    return _rows(cells, metric, OVERALL, task_type)


def _fold_rows(
    panels: Mapping[str, Panel], task_type: TaskType, metric: Metric
) -> list[dict[str, object]]:
    """A row for each draw, repetition, fold and target."""
    cells: dict[tuple[int, int, int], dict[str, _Cell]] = {}
    for target, panel in panels.items():
        for key, part in panel.folds().items():
            summary = Summary(metric.function(part.y, part.scores), np.zeros(0))
            cell = _cell(summary, metric, task_type, part.rows, part.y)
            cells.setdefault(key, {})[target] = cell
    return [row for key in sorted(cells) for row in _rows(cells[key], metric, key, task_type)]


def _cell(
    summary: Summary, metric: Metric, task_type: TaskType, patients: Int64Array, y: Float64Array
) -> _Cell:
    chance = metric.chance(y) if len(y) else None
    column = {"binary": 0, "multilabel": 0, "survival": EVENT}.get(task_type)
    positive = -1 if column is None else int(y[:, column].sum())
    return _Cell(summary, math.nan if chance is None else chance, patients, positive)


def _macro_cell(cells: Sequence[_Cell]) -> _Cell:
    """Mean over the labels whose metric is defined."""
    chances = [cell.chance for cell in cells if not math.isnan(cell.summary.estimate)]
    patients = np.unique(np.concatenate([cell.patients for cell in cells]))
    chance = float(np.mean(chances)) if chances else math.nan
    return _Cell(macro([cell.summary for cell in cells]), chance, patients, -1)


def _rows(
    cells: Mapping[str, _Cell], metric: Metric, key: tuple[int, int, int], task_type: TaskType
) -> list[dict[str, object]]:
    """Rows of the table, with the mean over labels last."""
    shown = dict(cells)
    if task_type == "multilabel":
        shown[MACRO] = _macro_cell(list(cells.values()))
    rows = []
    for target, cell in shown.items():
        low, high = cell.summary.interval()
        values = (cell.summary.estimate, low, high, cell.chance)
        counts = (len(cell.patients), cell.positive, 0)
        rows.append(dict(zip(COLUMNS, (target, metric.name, *key, *values, *counts), strict=True)))
    return rows


def _mean_score(y: Float64Array, scores: Float64Array) -> float:
    return float(scores.mean())


def _weighted_score(y: Float64Array, scores: Float64Array, weights: Int64Array) -> Float64Array:
    return weighted_mean(scores[:, 0], weights)
