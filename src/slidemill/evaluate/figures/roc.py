"""ROC curves of patients, one panel a class or label, one line a row of the comparison."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from slidemill.evaluate.figures.panels import Curve, curve_panels
from slidemill.evaluate.figures.style import FAINT, MINUS, look


@look()
def roc_figure(names: tuple[str, ...], predictions: pd.DataFrame, metrics: pd.DataFrame) -> Figure:
    """ROC curves of patients' pooled out-of-fold predictions, of the first repetition.

    Args:
        names: Classes or labels that scores are of; each gets a panel, one against the rest.
        predictions: Rows of the `predictions` format, of one binary, multiclass or multilabel task.
        metrics: Rows of the `metrics` format, of that task; the legend takes AUROC from them.

    Returns:
        The figure; a panel without a curve says why.

    Raises:
        ValueError: If no model trained on all patients.
    """
    return curve_panels(names, predictions, metrics, "auroc", _draw)


def _draw(axes: Axes, curves: list[Curve]) -> None:
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, zorder=1)
    for curve in curves:
        fpr, tpr, _ = roc_curve(curve.labels, curve.scores)
        curve.plot(axes, fpr, tpr, drawstyle="default")
    axes.set(xlabel=f"1 {MINUS} specificity", ylabel="sensitivity")
