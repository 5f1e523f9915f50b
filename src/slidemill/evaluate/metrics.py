"""Metrics of a binary prediction, each plainly and for many weightings of the cases at once.

`function` of a metric is scikit-learn's. `weighted` gives the same number for every row of a
matrix of case weights, in one pass: a bootstrap draw is a vector of how often each case was drawn,
and a thousand calls of the plain function would be too slow. Both treat ties alike: equal
probabilities are one threshold. Where a metric needs both classes and there is one, it is nan.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

THRESHOLD = 0.5
"""Probabilities from here on count as predicted positive."""

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]
WeightedFunction = Callable[[Int64Array, Float64Array, npt.NDArray[np.int64]], Float64Array]


@dataclass(frozen=True)
class Metric:
    """One way to judge predicted probabilities.

    Attributes:
        name: Name in tables.
        label: Name for people.
        function: Labels int64 (n,) and probabilities float64 (n,) to the value; nan where the
            labels are of one class.
        weighted: Labels (n,), probabilities (n,) and case weights int64 (draws, n) to the values,
            float64 (draws,); nan for draws whose weight lies on one class.
        chance: Value that guessing gives, from the labels; None where there is no such value.
        higher_is_better: Whether a larger value is the better one.
    """

    name: str
    label: str
    function: Callable[[Int64Array, Float64Array], float]
    weighted: WeightedFunction
    chance: Callable[[Int64Array], float] | None
    higher_is_better: bool


def auroc(y: Int64Array, p: Float64Array) -> float:
    """Area under the ROC curve; ties count one half; nan for one class."""
    return float(roc_auc_score(y, p)) if _both_classes(y) else float("nan")


def auprc(y: Int64Array, p: Float64Array) -> float:
    """Average precision: precision summed over steps of recall; nan for one class.

    Interpolation between points of the precision-recall curve would be too optimistic (Davis &
    Goadrich 2006, doi:10.1145/1143844.1143874).
    """
    return float(average_precision_score(y, p)) if _both_classes(y) else float("nan")


def balanced_accuracy(y: Int64Array, p: Float64Array) -> float:
    """Mean of sensitivity and specificity at `THRESHOLD`; nan for one class."""
    if not _both_classes(y):
        return float("nan")
    return float(balanced_accuracy_score(y, p >= THRESHOLD))


def weighted_auroc(y: Int64Array, p: Float64Array, weights: Int64Array) -> Float64Array:
    """`auroc` for each row of case weights (draws, n): the area by the trapezoidal rule."""
    positives, negatives = _weights_by_threshold(y, p, weights)
    found = np.cumsum(positives, axis=1)
    # A threshold adds its negatives as a strip whose height grows from the found positives before
    # it to those after it: half of the pairs tied at the threshold count.
    area = np.sum(negatives * (found - 0.5 * positives), axis=1)
    return _ratio(area, positives.sum(axis=1) * negatives.sum(axis=1))


def weighted_auprc(y: Int64Array, p: Float64Array, weights: Int64Array) -> Float64Array:
    """`auprc` for each row of case weights (draws, n)."""
    positives, negatives = _weights_by_threshold(y, p, weights)
    found = np.cumsum(positives, axis=1)
    selected = np.cumsum(positives + negatives, axis=1)
    # Before the first case of any weight, nothing is selected and recall does not step.
    precision = found / np.maximum(selected, 1)
    total = positives.sum(axis=1)
    values = _ratio(np.sum(positives * precision, axis=1), total)
    return np.where(negatives.sum(axis=1) > 0, values, np.nan)


def weighted_balanced_accuracy(y: Int64Array, p: Float64Array, weights: Int64Array) -> Float64Array:
    """`balanced_accuracy` for each row of case weights (draws, n)."""
    right = (p >= THRESHOLD) == (y == 1)
    recalls = [
        _ratio((weights[:, of_class & right]).sum(axis=1), weights[:, of_class].sum(axis=1))
        for of_class in (y == 1, y == 0)
    ]
    return np.asarray(0.5 * (recalls[0] + recalls[1]), dtype=np.float64)


def _prevalence(y: Int64Array) -> float:
    return float(np.mean(y == 1))


def _half(y: Int64Array) -> float:
    return 0.5


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("auroc", "AUROC", auroc, weighted_auroc, _half, True),
        Metric("auprc", "AUPRC", auprc, weighted_auprc, _prevalence, True),
        Metric(
            "balanced_accuracy",
            "Balanced accuracy",
            balanced_accuracy,
            weighted_balanced_accuracy,
            _half,
            True,
        ),
    )
}
"""Every metric, by name, in the order in which tables show them."""


def _both_classes(y: Int64Array) -> bool:
    return len(np.unique(y)) == 2


def _weights_by_threshold(
    y: Int64Array, p: Float64Array, weights: Int64Array
) -> tuple[Int64Array, Int64Array]:
    """Weight of the positives and of the negatives at each distinct probability, highest first.

    Returns:
        Two arrays int64 (draws, thresholds).
    """
    order = np.argsort(-p, kind="stable")
    starts = np.flatnonzero(np.diff(p[order], prepend=np.inf))
    sorted_weights, positive = weights[:, order], y[order] == 1
    return (
        np.add.reduceat(sorted_weights * positive, starts, axis=1),
        np.add.reduceat(sorted_weights * ~positive, starts, axis=1),
    )


def _ratio(numerator: npt.NDArray[np.number], denominator: Int64Array) -> Float64Array:
    """The quotient, nan where the denominator is 0."""
    undefined = np.full(len(denominator), np.nan)
    quotient: Float64Array = np.divide(numerator, denominator, out=undefined, where=denominator > 0)
    return quotient
