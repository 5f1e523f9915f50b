"""Predicted against true numbers of patients, one panel a row of the comparison."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure, SubFigure

from slidemill.evaluate.figures.data import Row, main_rows, overall
from slidemill.evaluate.figures.multiples import row_panels, without_patients
from slidemill.evaluate.figures.style import COLOURS, FAINT, count, look, number
from slidemill.evaluate.names import metric_label

METRICS = ("pearson", "spearman", "r2")
"""Metrics in the title of a panel."""

MANY = 400
"""More points than this are drawn as pixels in the SVG, which would be megabytes long."""


@look()
def scatter_figure(predictions: pd.DataFrame, metrics: pd.DataFrame) -> Figure:
    """Out-of-fold predictions of the first repetition against the truth, a point a patient.

    Args:
        predictions: Rows of the `predictions` format, of one regression task.
        metrics: Rows of the `metrics` format, of that task; titles take numbers from them.

    Raises:
        ValueError: If no model trained on all patients.
    """
    table = main_rows(metrics, "metrics")

    def draw(part: SubFigure, title: str, patients: pd.DataFrame, row: Row) -> None:
        _panel(part, title, patients, _numbers(table, row))

    return row_panels(predictions, metrics, draw, height=4.0)


def _numbers(metrics: pd.DataFrame, row: Row) -> str:
    found = {name: overall(metrics, row, name) for name in METRICS}
    return "".join(
        f", {metric_label(name)} {number(estimate.value)}"
        for name, estimate in found.items()
        if estimate.n_patients
    )


def _panel(part: SubFigure, title: str, patients: pd.DataFrame, numbers: str) -> None:
    if patients.empty:
        return without_patients(part, title)
    true, predicted = patients["label"].to_numpy(), patients["score"].to_numpy()
    axes = part.add_subplot()
    both = np.concatenate([true, predicted])
    span = float(np.ptp(both)) or 1.0
    low, high = float(both.min()) - 0.04 * span, float(both.max()) + 0.04 * span
    axes.axline((low, low), (high, high), color=FAINT, linewidth=1, zorder=1)
    axes.plot(
        true,
        predicted,
        linestyle="none",
        marker="o",
        markersize=4.5 if len(true) <= MANY else 2.5,
        markeredgewidth=0,
        color=COLOURS[0],
        alpha=0.55 if len(true) <= MANY else 0.35,
        rasterized=len(true) > MANY,
    )
    axes.set(xlim=(low, high), ylim=(low, high), box_aspect=1)
    axes.set(xlabel="true", ylabel="predicted")
    axes.set_title(f"{title}\n{count(len(true), 'patient')}{numbers}", loc="left")
    return None
