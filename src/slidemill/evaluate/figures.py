"""ROC curves of a comparison, as SVG.

Arrays in, bytes out. The same predictions give the same bytes: no date, no random ids.
"""

import io

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from slidemill.evaluate.bootstrap import patient_predictions

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999")
"""Okabe and Ito's colours, which people with colour-blindness tell apart."""
_DASHES = ("solid", "dashed", "dotted", "dashdot")


def roc_figure(predictions: pd.DataFrame, metrics: pd.DataFrame) -> bytes:
    """ROC curves of patients' pooled out-of-fold predictions, one a model and input.

    Args:
        predictions: Rows of the `predictions` format, of one task.
        metrics: Rows of the `metrics` format, of that task; the legend takes AUROC from them.

    Returns:
        An SVG.
    """
    overall = metrics[(metrics["metric"] == "auroc") & (metrics["fold"] < 0)]
    with mpl.rc_context({"svg.hashsalt": "slidemill", "font.size": 9.5, "svg.fonttype": "path"}):
        figure = Figure(figsize=(9.6, 4.6), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, zorder=0)
        for number, row in enumerate(overall.itertuples()):
            mine = (predictions["model"] == row.model) & (predictions["input"] == row.input)
            first = predictions[mine & (predictions["repeat"] == predictions["repeat"].min())]
            patients = patient_predictions(first)
            fpr, tpr, _ = roc_curve(patients["label"], patients["probability"])
            axes.plot(
                np.concatenate([[0.0], fpr]),
                np.concatenate([[0.0], tpr]),
                color=COLOURS[number % len(COLOURS)],
                linestyle=_DASHES[number // len(COLOURS) % len(_DASHES)],
                linewidth=1.8,
                label=f"{row.model} on {row.input}   {row.estimate:.2f} "
                f"[{row.low:.2f}, {row.high:.2f}]",
            )
        axes.set(
            xlabel="1 - specificity (patients)",
            ylabel="sensitivity (patients)",
            xlim=(-0.01, 1.01),
            ylim=(-0.01, 1.01),
            aspect="equal",
        )
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right center", frameon=False, title="AUROC [95 % interval]")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
