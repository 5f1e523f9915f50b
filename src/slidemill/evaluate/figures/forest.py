"""Forest plot: the headline metric of every row of a comparison with its interval."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slidemill.evaluate.figures.data import (
    Estimate,
    counts_text,
    main_rows,
    overall,
    rows_of,
)
from slidemill.evaluate.figures.style import (
    COLOURS,
    FAINT,
    GREY,
    WIDTH,
    interval,
    look,
    say,
    shown,
    text_width,
)
from slidemill.evaluate.names import HEADLINE, metric_label
from slidemill.splits.targets import TaskType

ONE_LINE, TWO_LINES = 3.0, 3.4
"""Width of a row's name, inches; where one is wider on one line, all are in two."""

_ROW = {1: 0.27, 2: 0.43}
"""Height of a row with so many lines, inches."""


@look()
def forest_figure(task_type: TaskType, metrics: pd.DataFrame) -> Figure:
    """The headline metric of all rows, results above and controls, in grey, below.

    Args:
        task_type: Type of the task, which says what its headline is.
        metrics: Rows of the `metrics` format, of that task, in the order in which they are shown.

    Returns:
        The figure; a row whose metric is undefined has the word, and no point.

    Raises:
        ValueError: If no model trained on all patients, or none has the headline metric.
    """
    metric = HEADLINE[task_type]
    table = main_rows(metrics, "metrics")
    table = table[table["metric"] == metric]
    if table.empty:
        raise ValueError(f"the metrics have no {metric}")
    rows = rows_of(table)
    results = sum(not row.control for row in rows)
    # Set apart, so that nobody takes a control for a competitor.
    places = [i + (0.6 if 0 < results <= i else 0.0) for i in range(len(rows))]
    found = [overall(table, row, metric) for row in rows]
    names = [shown(row.label) for row in rows]
    lines = 1
    if max(text_width(name) for name in names) > ONE_LINE:
        lines, names = 2, ["\n".join(shown(line, TWO_LINES) for line in row.lines) for row in rows]
    height = _ROW[lines] * (places[-1] + 1) + 1.0
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    _chance(axes, found)
    for place, row, estimate in zip(places, rows, found, strict=True):
        _point(axes, place, estimate, GREY if row.control else COLOURS[0])
    axes.set_ylim(places[-1] + 0.6, -0.6)
    axes.set_yticks(places, names)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    kind = "with event" if task_type == "survival" else "positive"
    of = counts_text(found, kind if task_type in ("binary", "survival") else "")
    axes.set_xlabel(f"{metric_label(metric)} and 95 % interval, {of}")
    axes.set_axisbelow(True)
    axes.xaxis.grid(True, color="#eeeeee", linewidth=0.8)
    _numbers(axes, places, found)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_color("#777777" if row.control else "#222222")
    return figure


def _point(axes: Axes, place: float, found: Estimate, colour: str) -> None:
    if math.isnan(found.value):
        return
    if not math.isnan(found.low) and not math.isnan(found.high):
        axes.plot([found.low, found.high], [place, place], color=colour, linewidth=1.6, zorder=2)
    axes.plot([found.value], [place], marker="s", markersize=5, color=colour, zorder=3)


def _chance(axes: Axes, found: list[Estimate]) -> None:
    values = sorted({e.chance for e in found if not math.isnan(e.chance)})
    for chance in values:
        axes.axvline(chance, color=FAINT, linewidth=1, zorder=1)
    if len(values) == 1:
        axes.annotate("chance", (values[0], 1.0), xycoords=axes.get_xaxis_transform(), ha="center",
                      va="bottom", color="#777777")  # fmt: skip
    numbers = [v for e in found for v in (e.value, e.low, e.high) if not math.isnan(v)]
    if not numbers:
        say(axes, "Undefined for every row.")
        axes.set_xlim(0.0, 1.0)
        return
    low, high = min(*numbers, *values), max(*numbers, *values)
    margin = 0.04 * max(high - low, 0.25)
    axes.set_xlim(low - margin, high + margin)


def _numbers(axes: Axes, places: list[float], found: list[Estimate]) -> None:
    """Estimates in a column on the right."""
    right = axes.twinx()
    right.set_ylim(axes.get_ylim())
    right.set_yticks(places, [interval(e.value, e.low, e.high) for e in found])
    right.tick_params(axis="y", length=0)
    right.spines[:].set_visible(False)
