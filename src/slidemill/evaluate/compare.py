"""Differences between the rows of a comparison, on the same patients.

Each pair gets two answers. The paired bootstrap draws the same patients for both rows: the interval
is for these two sets of predictions on other patients. The corrected resampled t-test (Nadeau &
Bengio 2003, doi:10.1023/A:1024068626366) looks at single folds: it includes the variance of
training, and its variance is widened by n_test / n_train, because folds share training patients and
their differences are not independent; the plain t-test over folds finds differences that are not
there. Simulated at 5 %, without a difference, over 5 times 5 folds: the corrected test finds one in
3 to 6 % of cohorts of 120 patients and more and in up to 8 % of cohorts of 60, the plain one in 40
to 50 %. It takes the folds of all draws and repetitions. Where few patients train and many are
tested, as in few-shot units, it is cautious.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import chain, combinations

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from slidemill.evaluate.bootstrap import MACRO
from slidemill.evaluate.encoder_rows import RowKey
from slidemill.evaluate.metrics import HEADLINE, Metric, metrics_of
from slidemill.evaluate.panel import Panel, make_panels
from slidemill.evaluate.resample import Summary, draw_weights, macro, summarise
from slidemill.splits.targets import Int64Array, TaskType

COLUMNS = (
    "target",
    "metric",
    "a",
    "b",
    "difference",
    "low",
    "high",
    "folds",
    "p",
    "p_holm",
)
"""Columns of a table of differences: those of the format `comparisons` from `target` on."""

Key = tuple[int, int, int]
"""Draw, repetition and fold."""

_SAME = 1e-12
"""Spread below which differences of folds are all the same one."""


@dataclass(frozen=True)
class _Side:
    """One row's headline metric on one target.

    Attributes:
        summary: Over all folds, with draws of patients.
        folds: In single folds; nan where it is undefined.
    """

    summary: Summary
    folds: Mapping[Key, float]


@dataclass(frozen=True)
class _Pair:
    """Columns of the table that are of one pair and target, in their order."""

    a: str
    b: str
    difference: float
    low: float
    high: float
    folds: int
    p: float


def compare_rows(
    predictions: pd.DataFrame,
    task_type: TaskType,
    names: Sequence[str],
    sizes: Mapping[Key, tuple[int, int]],
    *,
    draws: int,
    seed: int,
    pairs: Sequence[tuple[RowKey, RowKey]] | None = None,
) -> pd.DataFrame:
    """Differences of the headline metric between rows.

    Args:
        predictions: Rows of the format `predictions` of one task and one sample.
        task_type: Type of the task.
        names: What each score is of, as in `Targets.names`.
        sizes: Patients that are tested and that train, (n_test, n_train), of each draw, repetition
            and fold. The mean of their ratio corrects the test.
        draws: Draws of patients.
        seed: Seed of the draws, not negative; the same as for `row_metrics` gives the same draws.
        pairs: Which rows are compared; by default all rows that are no controls, each with each.

    Returns:
        `COLUMNS`, one row a target and pair, in the order of the pairs, or else in that in which
        the predictions have the rows. Targets are as in `row_metrics`. `folds` counts those where
        both are defined; p is nan with fewer than two, and Holm's method is over the pairs of a
        target.

    Raises:
        CohortError: If there are no predictions.
        ValueError: If two rows differ in the patients of a fold, sizes lack a fold, or as for
            `make_panels`.
    """
    metric = metrics_of(task_type)[HEADLINE[task_type]]
    if pairs is None:
        results = predictions.loc[predictions["control"] == "", list(RowKey._fields)]
        keys = [RowKey(*key) for key in results.drop_duplicates().itertuples(index=False)]
        pairs = list(combinations(keys, 2))
    if not pairs:
        return _table([])
    panels = {
        key: make_panels(_rows(predictions, key), task_type, names)
        for key in dict.fromkeys(chain.from_iterable(pairs))
    }
    _check_same_patients({key.label: panel for key, panel in panels.items()})
    patients = len(next(iter(next(iter(panels.values())).values())).patients)
    weights = draw_weights(patients, draws, seed)
    sides = {row: _sides(each, metric, weights, task_type) for row, each in panels.items()}
    found: list[tuple[object, ...]] = []
    for target in next(iter(sides.values())):
        own = [_pair(a.label, b.label, sides[a][target], sides[b][target], sizes) for a, b in pairs]
        adjusted = holm([pair.p for pair in own])
        for pair, p in zip(own, adjusted, strict=True):
            found.append((target, metric.name, *astuple(pair), p))
    return _table(found)


def corrected_t_test(differences: npt.ArrayLike, test_to_train: float) -> float:
    """Two-sided p of the corrected resampled t-test.

    t = mean / sqrt((1 / J + n_test / n_train) * variance), with J - 1 degrees of freedom (Nadeau &
    Bengio 2003, section 5; Bouckaert & Frank 2004 for repeated folds).

    Args:
        differences: One number a fold, (J,).
        test_to_train: n_test / n_train.

    Returns:
        p; nan for fewer than two folds, and where all folds have the same difference, unless that
        is 0, which gives 1.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return math.nan
    if np.ptp(values) <= _SAME:
        # No variance to judge the difference by.
        return 1.0 if np.abs(values).max() <= _SAME else math.nan
    scale = math.sqrt((1.0 / len(values) + test_to_train) * values.var(ddof=1))
    return float(2.0 * stats.t.sf(abs(values.mean()) / scale, len(values) - 1))


def holm(ps: Sequence[float]) -> list[float]:
    """Adjust p by Holm's step-down method (Holm 1979); nan stays and does not count."""
    values = np.asarray(ps, dtype=np.float64)
    order = np.argsort(values, kind="stable")[: int(np.sum(~np.isnan(values)))]
    stepped = values[order] * np.arange(len(order), 0, -1)
    adjusted = np.full(len(values), math.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return [float(p) for p in adjusted]


def _rows(predictions: pd.DataFrame, key: RowKey) -> pd.DataFrame:
    """Predictions of one row."""
    mine = (predictions["model"] == key.model) & (predictions["input"] == key.input)
    return predictions[mine & (predictions["control"] == key.control)]


def _sides(
    panels: Mapping[str, Panel], metric: Metric, weights: Int64Array, task_type: TaskType
) -> dict[str, _Side]:
    """The headline of one row on each target."""
    sides = {
        target: _Side(
            summarise(panel, metric, weights),
            {key: metric.function(part.y, part.scores) for key, part in panel.folds().items()},
        )
        for target, panel in panels.items()
    }
    if task_type == "multilabel":
        each = list(sides.values())
        keys = sorted({key for side in each for key in side.folds})
        folds = {key: _mean([side.folds.get(key, math.nan) for side in each]) for key in keys}
        sides[MACRO] = _Side(macro([side.summary for side in each]), folds)
    return sides


def _pair(a: str, b: str, one: _Side, other: _Side, sizes: Mapping[Key, tuple[int, int]]) -> _Pair:
    """Compare two rows on one target."""
    drawn = one.summary.drawn - other.summary.drawn
    difference = Summary(one.summary.estimate - other.summary.estimate, drawn)
    low, high = difference.interval()
    by_fold = {key: value - other.folds[key] for key, value in one.folds.items()}
    usable = {key: value for key, value in by_fold.items() if not math.isnan(value)}
    if not set(usable) <= set(sizes):
        raise ValueError(f"no sizes of {sorted(set(usable) - set(sizes))[:5]}")
    ratios = [sizes[key][0] / sizes[key][1] for key in usable]
    p = corrected_t_test(list(usable.values()), _mean(ratios))
    return _Pair(a, b, difference.estimate, low, high, len(usable), p)


def _check_same_patients(panels: Mapping[str, Mapping[str, Panel]]) -> None:
    """Raise unless all rows test the same patients in the same folds."""
    (first, expected), *others = panels.items()
    for row, found in others:
        for target, panel in found.items():
            wanted, folds = expected[target].folds(), panel.folds()
            same = panel.patients == expected[target].patients and set(folds) == set(wanted)
            if not same or any(
                not np.array_equal(folds[key].rows, part.rows) for key, part in wanted.items()
            ):
                raise ValueError(f"{row} and {first} are not of the same patients and folds")


def _mean(values: Sequence[float]) -> float:
    """Mean of those that are defined; nan if none is."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def _table(rows: Sequence[tuple[object, ...]]) -> pd.DataFrame:
    kinds = dict.fromkeys(("difference", "low", "high", "p", "p_holm"), "float64")
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype(kinds | {"folds": "int64"})
