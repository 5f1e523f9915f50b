"""Reliability curves of patients, one panel a row, one line a class or label."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy.stats import binomtest

from slidemill.evaluate.figures.data import Row
from slidemill.evaluate.figures.multiples import row_panels, without_patients
from slidemill.evaluate.figures.style import FAINT, line_style, look, say, shown

BINS = 10
"""Bins of a curve, where there are patients enough."""

IN_A_BIN = 5
"""Patients that a bin has at the least, on average; with fewer, bins are fewer."""

MAX_TARGETS = 7
"""Classes or labels that are drawn into a panel."""


_CLASS = 2.0
"""Width of a class's name in the legend, inches."""


@dataclass(frozen=True)
class Reliability:
    """A reliability curve.

    Attributes:
        predicted: float64 (B,), mean score in each bin.
        observed: float64 (B,), share of positive patients in it.
        low: float64 (B,), lower end of its 95 % interval.
        high: float64 (B,), upper end.
        count: int64 (B,), patients in it.
    """

    predicted: npt.NDArray[np.float64]
    observed: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    count: npt.NDArray[np.int64]


def reliability(
    labels: npt.NDArray[np.int64], scores: npt.NDArray[np.float64], bins: int = BINS
) -> Reliability:
    """How often patients with such scores are positive.

    Bins are bounded by quantiles of the scores. Equal scores are in one bin, so that there may be
    fewer bins than were asked for. Intervals are Wilson's (1927), which stay within 0 and 1.

    Args:
        labels: 1 or 0, int64 (n,), n at least 1.
        scores: Probabilities, float64 (n,).
        bins: Bins at the most.
    """
    edges = np.percentile(scores, np.linspace(0.0, 1.0, bins + 1) * 100.0)
    numbers = np.unique(np.searchsorted(edges[1:-1], scores), return_inverse=True)[1]
    count = np.bincount(numbers)
    positive = np.bincount(numbers, weights=labels).astype(np.int64)
    intervals = [
        binomtest(int(k), int(n)).proportion_ci(method="wilson")
        for k, n in zip(positive, count, strict=True)
    ]
    return Reliability(
        predicted=np.bincount(numbers, weights=scores) / count,
        observed=positive / count,
        low=np.array([found.low for found in intervals]),
        high=np.array([found.high for found in intervals]),
        count=count.astype(np.int64),
    )


@look()
def calibration_figure(
    names: tuple[str, ...], predictions: pd.DataFrame, metrics: pd.DataFrame
) -> Figure:
    """How often patients with such a predicted probability are positive, and the scores below.

    Args:
        names: Classes or labels that scores are of; each has a line, one against the rest.
        predictions: Rows of the `predictions` format, of one binary, multiclass or multilabel task.
        metrics: Rows of the `metrics` format, which give the order of rows.

    Returns:
        The figure; a line of one class only is drawn, since its scores can be right or wrong too.

    Raises:
        ValueError: If no model trained on all patients.
    """
    drawn = names[:MAX_TARGETS]

    def draw(part: SubFigure, title: str, patients: pd.DataFrame, _: Row) -> None:
        _panel(part, title, patients, drawn)

    note = (
        f"Bins of equally many patients ({BINS}, fewer where there are few patients), with "
        "Wilson's 95 % intervals."
    )
    entries = tuple(
        Line2D([], [], label=shown(name, _CLASS), **line_style(i, control=False))
        for i, name in enumerate(drawn)
    )
    more = f", the first {len(drawn)} of {len(names)}" if len(drawn) < len(names) else ""
    return row_panels(
        predictions,
        metrics,
        draw,
        height=4.1,
        targets=drawn,
        note=note,
        entries=entries if len(drawn) > 1 else (),
        title=f"each against the rest{more}",
    )


def _panel(part: SubFigure, title: str, patients: pd.DataFrame, names: tuple[str, ...]) -> None:
    if patients.empty:
        return without_patients(part, title)
    axes, below = part.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, zorder=1)
    for number, name in enumerate(names):
        mine = patients[patients["target"] == name]
        if len(mine):
            _line(axes, below, mine, number, alone=len(names) == 1)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of positive patients")
    axes.set_title(title, loc="left")
    below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    below.set(xlabel="predicted probability", ylabel="patients")
    return None


def _line(axes: Axes, below: Axes, mine: pd.DataFrame, number: int, *, alone: bool) -> None:
    labels, scores = mine["label"].to_numpy(np.int64), mine["score"].to_numpy(np.float64)
    found = reliability(labels, scores, int(np.clip(len(labels) // IN_A_BIN, 1, BINS)))
    style = line_style(number, control=False)
    axes.plot(found.predicted, found.observed, marker="o", markersize=3.5, clip_on=False, **style)
    axes.vlines(
        found.predicted,
        found.low,
        found.high,
        color=style["color"],
        linewidth=1.0,
        alpha=0.9 if alone else 0.4,
    )
    below.hist(
        scores,
        bins=list(np.linspace(0.0, 1.0, 21)),
        color=style["color"],
        histtype="stepfilled" if alone else "step",
        alpha=0.55 if alone else 0.9,
    )
    outside = int(((scores < 0) | (scores > 1)).sum())
    if outside:
        say(axes, f"{outside} scores are no probabilities.")
