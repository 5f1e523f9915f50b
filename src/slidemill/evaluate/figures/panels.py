"""Curves of all rows of a comparison, one panel a class or label: what ROC and PR share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from slidemill.evaluate.figures.data import (
    Row,
    main_rows,
    numbered,
    overall,
    patients_of,
    rows_of,
)
from slidemill.evaluate.figures.style import (
    FAINT,
    count,
    interval,
    legend,
    line_style,
    panels,
    say,
    shown,
)
from slidemill.evaluate.names import metric_label

MAX_PANELS = 12
"""Classes or labels that get a panel; the title of the last one says how many have none."""

_SIZES = {0: (4.2, 4.4), 1: (4.2, 4.4), 2: (3.9, 4.3), 3: (2.6, 2.95)}
"""Width and height of a panel, inches, with so many side by side."""

_TITLE = 2.0
"""Width of a panel's title, inches."""


@dataclass(frozen=True)
class Curve:
    """Patients' predictions of one row for one class or label, of both kinds of patients.

    Attributes:
        labels: int64 (n,), 1 or 0.
        scores: float64 (n,).
        name: The row, for people.
        number: Its number among results or among controls.
        control: Whether it is a control.
    """

    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    name: str
    number: int
    control: bool

    def plot(
        self, axes: Axes, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], drawstyle: str
    ) -> None:
        """Draw its line."""
        axes.plot(
            x,
            y,
            drawstyle=drawstyle,
            label=self.name,
            clip_on=False,
            **line_style(self.number, control=self.control),
        )


def curve_panels(
    names: Sequence[str],
    predictions: pd.DataFrame,
    metrics: pd.DataFrame,
    metric: str,
    draw: Callable[[Axes, list[Curve]], None],
) -> Figure:
    """Panels from 0 to 1 both ways, with a legend of rows and their estimates.

    Controls that predict something else than these classes have no line.

    Args:
        names: Classes or labels; one panel each.
        predictions: Rows of the `predictions` format.
        metrics: Rows of the `metrics` format.
        metric: The metric of the legend.
        draw: Draws lines and labels of axes into a panel.

    Raises:
        ValueError: If no model trained on all patients.
    """
    predictions = main_rows(predictions, "predictions")
    metrics = main_rows(metrics, "metrics")
    predictions = predictions[predictions["target"].isin(names)]
    rows = [(n, row) for n, row in numbered(rows_of(metrics)) if len(row.of(predictions))]
    labels = [*(_entry(metrics, row, metric) for _, row in rows), "guessing"]
    number = min(len(names), MAX_PANELS)
    figure, found, place = panels(number, columns=3, panel=_SIZES[min(number, 3)], labels=labels)
    for axes, name in zip(found, names, strict=False):
        frames = [(n, row, patients_of(predictions, row, name)) for n, row in rows]
        _panel(axes, name, frames, draw)
    if len(names) > MAX_PANELS:
        found[-1].set_xlabel(f"{found[-1].get_xlabel()}\n{len(names) - MAX_PANELS} more not shown")
    handles = [Line2D([], [], **line_style(n, control=bool(row.control))) for n, row in rows]
    over = "" if len(names) == 1 else ", over all panels"
    handles.append(Line2D([], [], color=FAINT, linewidth=1))
    title = f"{metric_label(metric)} [95 % interval]{over}"
    legend(figure, place, handles, labels, title)
    return figure


def _panel(
    axes: Axes,
    name: str,
    frames: list[tuple[int, Row, pd.DataFrame]],
    draw: Callable[[Axes, list[Curve]], None],
) -> None:
    curves = [
        Curve(
            frame["label"].to_numpy(np.int64),
            frame["score"].to_numpy(np.float64),
            row.label,
            number,
            bool(row.control),
        )
        for number, row, frame in frames
        if frame["label"].nunique() == 2
    ]
    draw(axes, curves)
    axes.set(xlim=(0, 1), ylim=(0, 1), box_aspect=1)
    patients = max((frame for _, _, frame in frames), key=len, default=pd.DataFrame())
    n = len(patients)
    positive = int(patients["label"].sum()) if n else 0
    axes.set_title(
        f"{shown(name, _TITLE)}\n{positive:,} of {count(n, 'patient')} positive", loc="left"
    )
    if not curves:
        kind = "positive" if positive else "negative"
        say(axes, f"No curve: every patient is {kind}." if n else "No patient is tested.")


def _entry(metrics: pd.DataFrame, row: Row, metric: str) -> str:
    found = overall(metrics, row, metric)
    return f"{interval(found.value, found.low, found.high)}   {shown(row.label)}"
