"""Confusion matrices of patients, one panel a row of the comparison."""

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure, SubFigure
from sklearn.metrics import confusion_matrix

from slidemill.evaluate.figures.data import Row
from slidemill.evaluate.figures.multiples import row_panels, without_patients
from slidemill.evaluate.figures.style import look, shown, text_width
from slidemill.evaluate.metrics.decisions import THRESHOLD

CLASS = 1.3
"""Width of a class's name, inches; longer ones would leave no room for the matrix."""

MOST_WITH_SHARES, MOST_WITH_COUNTS = 5, 9
"""Classes with which cells have room for shares, and for counts."""


@look()
def confusion_figure(
    names: tuple[str, ...], predictions: pd.DataFrame, metrics: pd.DataFrame
) -> Figure:
    """Confusion matrices of patients' out-of-fold predictions, of the first repetition.

    Colours are shares of the true class, so that a rare class is seen as well as a common one.

    Args:
        names: The positive class of a binary task, or all classes of a multiclass one.
        predictions: Rows of the `predictions` format, of that task.
        metrics: Rows of the `metrics` format, which give the order.

    Raises:
        ValueError: If no model trained on all patients.
    """
    classes = (f"not {names[0]}", names[0]) if len(names) == 1 else names

    def draw(part: SubFigure, title: str, patients: pd.DataFrame, _: Row) -> None:
        if patients.empty:
            without_patients(part, title)
        else:
            _panel(part, title, matrix_of(names, patients), classes)

    rule = (
        f"Predicted where its probability is {THRESHOLD:g} or more."
        if len(names) == 1
        else "Predicted is the class with the highest probability."
    )
    note = f"Patients, and shares of the true class. {rule}"
    return row_panels(predictions, metrics, draw, height=_height(len(classes)), targets=names,
                      note=note)  # fmt: skip


def matrix_of(names: tuple[str, ...], patients: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Counts of patients by true and predicted class, int64 (K, K); rows are true.

    Args:
        names: The positive class of a binary task (K = 2, the negative class first), or all.
        patients: `patient_id`, `target`, `label`, `score`, one row a patient and target.
    """
    if len(names) == 1:
        true = patients["label"].to_numpy() == 1
        predicted = patients["score"].to_numpy() >= THRESHOLD
        return np.asarray(confusion_matrix(true, predicted, labels=[False, True]), np.int64)
    wide = patients.pivot(index="patient_id", columns="target", values=["label", "score"])
    true = wide["label"][list(names)].to_numpy().argmax(axis=1)
    predicted = wide["score"][list(names)].to_numpy().argmax(axis=1)
    return np.asarray(confusion_matrix(true, predicted, labels=np.arange(len(names))), np.int64)


def _height(classes: int) -> float:
    return 2.6 if classes == 2 else 3.9


def _panel(
    part: SubFigure, title: str, counts: npt.NDArray[np.int64], classes: tuple[str, ...]
) -> None:
    total = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    axes = part.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    labels = [shown(name, CLASS) for name in classes]
    # Upright where there is no room for whole words side by side.
    turned = max(text_width(label) for label in labels) * len(labels) > 2.4
    axes.set_xticks(np.arange(len(labels)), labels, rotation=90 if turned else 0)
    axes.set_yticks(np.arange(len(labels)), labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="predicted", ylabel="true")
    part.suptitle(title, x=0.02, ha="left")
    if len(classes) > MOST_WITH_COUNTS:
        part.colorbar(axes.images[0], ax=axes, shrink=0.7, label="share of the true class")
        return
    for i, j in np.ndindex(counts.shape):
        text = f"{counts[i, j]:,}"
        if len(classes) <= MOST_WITH_SHARES:
            text += f"\n{100 * shares[i, j]:.0f} %" if total[i] else ""
        red, green, blue = mpl.colormaps["Blues"](shares[i, j])[:3]
        dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5
        axes.text(j, i, text, ha="center", va="center", color="white" if dark else "#222222")
