"""Precision-recall curves of patients, one panel a class or label, one line a row."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve

from slidemill.evaluate.figures.panels import Curve, curve_panels
from slidemill.evaluate.figures.style import FAINT, look


@look()
def pr_figure(names: tuple[str, ...], predictions: pd.DataFrame, metrics: pd.DataFrame) -> Figure:
    """Precision-recall curves of patients' pooled out-of-fold predictions, of the first repetition.

    Steps, not slopes: points between two thresholds cannot be had (Davis & Goadrich 2006,
    doi:10.1145/1143844.1143874). A horizontal line is the share of positive patients, which is the
    precision of guessing.

    Args:
        names: Classes or labels that scores are of; each gets a panel, one against the rest.
        predictions: Rows of the `predictions` format, of one binary, multiclass or multilabel task.
        metrics: Rows of the `metrics` format, of that task; the legend takes AUPRC from them.

    Returns:
        The figure; a panel without a curve says why.

    Raises:
        ValueError: If no model trained on all patients.
    """
    return curve_panels(names, predictions, metrics, "auprc", _draw)


def _draw(axes: Axes, curves: list[Curve]) -> None:
    # Rows may differ in their patients, by a slide that failed for one encoder, but for a few.
    for prevalence in sorted({float(curve.labels.mean()) for curve in curves}):
        axes.plot([0, 1], [prevalence, prevalence], color=FAINT, linewidth=1, zorder=1)
    for curve in curves:
        precision, recall, _ = precision_recall_curve(curve.labels, curve.scores)
        curve.plot(axes, recall, precision, drawstyle="steps-post")
    axes.set(xlabel="recall (sensitivity)", ylabel="precision")
