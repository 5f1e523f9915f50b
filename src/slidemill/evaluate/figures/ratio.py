"""Few-shot and few-ratio curves: the headline metric against what models trained on."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from slidemill.evaluate.figures.data import (
    ROW_KEYS,
    Row,
    numbered,
    of_target,
    overall,
    rows_of,
)
from slidemill.evaluate.figures.style import FAINT, legend, line_style, look, panels, shown
from slidemill.evaluate.names import HEADLINE, metric_label
from slidemill.splits.targets import TaskType
from slidemill.splits.units import ALL

TOGETHER = 5
"""Results that share a panel; with more, each input has panels of its own."""

KEY = "Bands are 95 % intervals; small points are single draws, the mean of their folds."
"""Title of the legend."""

_SHARE, _SHOTS = "%", "-shot"
_TITLE = 3.2
"""Width of a panel's title, inches."""

_DODGE = 0.035
"""Part of its place by which the points of a line stand beside those of the next."""


@dataclass(frozen=True)
class Samples:
    """The samples of a panel, in order.

    Attributes:
        names: As in the column `sample`.
        places: Where they are on the axis: the share in percent, or the patients a class. All
            patients are at 100 %, or a step beyond the most shots.
        ticks: Their labels.
        label: What the axis is.
    """

    names: tuple[str, ...]
    places: tuple[float, ...]
    ticks: tuple[str, ...]
    label: str


def samples_of(metrics: pd.DataFrame, ending: str, label: str) -> Samples | None:
    """The samples of one kind, `%` or `-shot`, and that of all patients; None without any."""
    found = sorted(
        (float(name.removesuffix(ending)), name)
        for name in metrics["sample"].unique()
        if str(name).endswith(ending)
    )
    if not found:
        return None
    names, places = [name for _, name in found], [place for place, _ in found]
    ticks = [f"{place:g}" for place in places]
    # Patients of a sample of 100 % are all patients: the table has both, and one is enough.
    if (metrics["sample"] == ALL).any() and not (ending == _SHARE and places[-1] == 100.0):
        names.append(ALL)
        places.append(100.0 if ending == _SHARE else 2.0 * places[-1])
        ticks.append("100" if ending == _SHARE else ALL)
    return Samples(tuple(names), tuple(places), tuple(ticks), label)


def has_thinned(metrics: pd.DataFrame) -> bool:
    """Whether some units trained on fewer patients than there are."""
    return bool((metrics["sample"] != ALL).any())


@look()
def ratio_figure(task_type: TaskType, metrics: pd.DataFrame) -> Figure:
    """The headline metric against the share of training patients, or against patients a class.

    Lines are estimates over all draws, of predictions pooled over folds. The table has no such
    number for a single draw, so that their points are means of folds, which differ from it a bit.

    Args:
        task_type: Type of the task, which says what its headline is.
        metrics: Rows of the `metrics` format, of that task.

    Raises:
        ValueError: If no unit was thinned.
    """
    metric = HEADLINE[task_type]
    table = of_target(metrics[metrics["metric"] == metric])
    kinds = (
        samples_of(table, _SHOTS, "training patients a class"),
        samples_of(table, _SHARE, "training patients, % of all"),
    )
    given = [samples for samples in kinds if samples is not None]
    if not given:
        raise ValueError(f"the metrics have no {metric} of models that trained on fewer patients")
    rows = numbered(rows_of(table[table["sample"] != ALL]))
    labels = [*(shown(row.label) for _, row in rows), "guessing"]
    groups = _groups(rows)
    figure, found, place = panels(
        len(groups) * len(given), columns=len(given), panel=(3.9, 3.2), labels=labels
    )
    limits = _limits(table)
    for i, axes in enumerate(found):
        title, members = groups[i // len(given)]
        _panel(axes, table, given[i % len(given)], members, metric)
        axes.set(ylim=limits, ylabel=metric_label(metric))
        axes.set_title(title, loc="left")
    handles = [Line2D([], [], **line_style(n, control=bool(row.control))) for n, row in rows]
    handles.append(Line2D([], [], color=FAINT, linewidth=1))
    legend(figure, place, handles, labels, KEY)
    return figure


def draws_of(metrics: pd.DataFrame, row: Row, metric: str, sample: str) -> npt.NDArray[np.float64]:
    """The metric of each draw of a sample: the mean over its folds, where it is defined."""
    mine = row.of(metrics)
    mine = mine[(mine["metric"] == metric) & (mine["sample"] == sample) & (mine["draw"] >= 0)]
    return mine.groupby("draw")["estimate"].mean().to_numpy(np.float64)


def _groups(rows: list[tuple[int, Row]]) -> list[tuple[str, list[tuple[int, Row]]]]:
    """Titles and rows of panels: all in one, or one for each input."""
    if sum(not row.control for _, row in rows) <= TOGETHER:
        return [("", rows)]
    inputs = dict.fromkeys(row.input for _, row in rows)
    return [
        (shown(name, _TITLE), [pair for pair in rows if pair[1].input == name]) for name in inputs
    ]


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    """Limits that all panels share, so that they can be compared."""
    over = table[table["fold"] < 0][["estimate", "low", "high", "chance"]].to_numpy(np.float64)
    thinned = table[(table["sample"] != ALL) & (table["draw"] >= 0)]
    draws = thinned.groupby([*ROW_KEYS, "sample", "draw"])["estimate"].mean().to_numpy(np.float64)
    values = np.concatenate([over.ravel(), draws])
    if np.isnan(values).all():
        return 0.0, 1.0
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = 0.04 * max(high - low, 0.05)
    return low - margin, high + margin


def _panel(
    axes: Axes,
    table: pd.DataFrame,
    samples: Samples,
    rows: list[tuple[int, Row]],
    metric: str,
) -> None:
    for chance in sorted({c for c in table.loc[table["fold"] < 0, "chance"] if not math.isnan(c)}):
        axes.axhline(chance, color=FAINT, linewidth=1, zorder=1)
    for i, (number, row) in enumerate(rows):
        aside = float(np.exp(_DODGE * (i - (len(rows) - 1) / 2)))
        _line(axes, table, samples, row, metric, number, aside)
    axes.set_xscale("log")
    axes.set_xticks(samples.places, samples.ticks)
    axes.set_xticks([], minor=True)
    axes.set_xlabel(samples.label)


def _line(
    axes: Axes,
    table: pd.DataFrame,
    samples: Samples,
    row: Row,
    metric: str,
    number: int,
    aside: float,
) -> None:
    found = [overall(table[table["sample"] == name], row, metric) for name in samples.names]
    style = line_style(number, control=bool(row.control))
    value, low, high = (
        np.array([getattr(e, name) for e in found]) for name in ("value", "low", "high")
    )
    axes.plot(samples.places, value, marker="o", markersize=3.5, **style)
    axes.fill_between(samples.places, low, high, color=style["color"], alpha=0.1, linewidth=0)
    for place, name in zip(samples.places, samples.names, strict=True):
        draws = draws_of(table, row, metric, name) if name != ALL else np.empty(0)
        axes.plot(
            np.full(len(draws), place * aside),
            draws,
            linestyle="none",
            marker=".",
            markersize=3,
            color=style["color"],
            alpha=0.6,
        )
