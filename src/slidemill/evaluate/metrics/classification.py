"""Metrics of binary and multiclass predictions.

One score a row is the probability of the positive class, and a row counts as positive from
`THRESHOLD` on. K scores are the probabilities of K classes, and the class of the highest is
predicted (the first of several). Over K classes AUROC and AUPRC are means of each class against the
rest, F1 is the mean over classes, kappa is weighted by the squared distance in the classes' order.

All but the Brier score and the calibration error are nan where a class has no row: a mean over the
classes that happen to be there is another metric.
"""

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    roc_auc_score,
)

from slidemill.evaluate.metrics.base import Chance, Metric, constant, make_metric
from slidemill.evaluate.metrics.decisions import (
    all_classes,
    class_count,
    classes,
    one_against_rest,
    predicted,
    squared_errors,
)
from slidemill.evaluate.metrics.weighted import (
    weighted_auprc,
    weighted_auroc,
    weighted_balanced_accuracy,
    weighted_brier,
    weighted_ece,
    weighted_f1,
    weighted_kappa,
)
from slidemill.splits.targets import Float64Array


def auroc(y: Float64Array, scores: Float64Array) -> float:
    """Area under the ROC curve; ties count one half."""
    if not all_classes(y, scores):
        return float("nan")
    truths = one_against_rest(y, scores)
    areas = [roc_auc_score(t, s) for t, s in zip(truths.T, scores.T, strict=True)]
    return float(np.mean(areas))


def auprc(y: Float64Array, scores: Float64Array) -> float:
    """Average precision: precision summed over steps of recall.

    Interpolation between points of the precision-recall curve would be too optimistic (Davis &
    Goadrich 2006, doi:10.1145/1143844.1143874).
    """
    if not all_classes(y, scores):
        return float("nan")
    truths = one_against_rest(y, scores)
    areas = [average_precision_score(t, s) for t, s in zip(truths.T, scores.T, strict=True)]
    return float(np.mean(areas))


def balanced_accuracy(y: Float64Array, scores: Float64Array) -> float:
    """Mean over classes of the share of a class that is predicted right."""
    if not all_classes(y, scores):
        return float("nan")
    return float(balanced_accuracy_score(classes(y), predicted(scores)))


def f1(y: Float64Array, scores: Float64Array) -> float:
    """Harmonic mean of precision and recall; 0 for a class that is never predicted."""
    if not all_classes(y, scores):
        return float("nan")
    average = "binary" if scores.shape[1] == 1 else "macro"
    return float(f1_score(classes(y), predicted(scores), average=average, zero_division=0.0))


def kappa(y: Float64Array, scores: Float64Array) -> float:
    """Cohen's kappa with quadratic weights (Cohen 1968, doi:10.1037/h0026256).

    For two classes, the plain kappa.
    """
    if not all_classes(y, scores):
        return float("nan")
    labels = np.arange(class_count(scores))
    return float(
        cohen_kappa_score(classes(y), predicted(scores), labels=labels, weights="quadratic")
    )


def brier(y: Float64Array, scores: Float64Array) -> float:
    """Mean squared error of the probabilities, summed over classes (Brier 1950).

    0 to 1 for one score a row, 0 to 2 for several.

    Raises:
        ValueError: If a score is not a probability.
    """
    return float(np.mean(squared_errors(y, scores)))


def ece(y: Float64Array, scores: Float64Array) -> float:
    """Expected calibration error in ten bins of equal width.

    Rows are binned by their probability of the positive class, or of the predicted class where
    there are several (Guo et al. 2017). A bin's error is the distance between its mean probability
    and its share of positive, or rightly predicted, rows; bins weigh as their rows. A probability
    on an edge is in the upper bin, and 1 in the last.

    Few rows a bin bias it upwards: of a calibrated model it is about 0.08 on 150 rows, not 0.
    torchmetrics' function is the same but for probabilities on an edge, which it bins by rounding,
    and squashes all scores if one is above 1.

    Raises:
        ValueError: If a score is not a probability.
    """
    return float(weighted_ece(y, scores, np.ones((1, len(y)), dtype=np.int64))[0])


def _prevalence(y: Float64Array) -> float:
    """Share of positives: the AUPRC of random ranks."""
    return float(np.mean(y))


def _one_in_classes(y: Float64Array) -> float:
    """One in so many as there are classes: accuracy, and mean AUPRC, of guesses."""
    return 1.0 / len(np.unique(y))


def _brier_of_shares(y: Float64Array) -> float:
    """Brier score over classes of a model that gives every row the classes' shares."""
    shares = np.unique(y, return_counts=True)[1] / len(y)
    return 1.0 - float(np.square(shares).sum())


def _brier_of_prevalence(y: Float64Array) -> float:
    """The same for the one score of a binary task."""
    return 0.5 * _brier_of_shares(y)


def _metrics(auprc_chance: Chance, brier_chance: Chance) -> tuple[Metric, ...]:
    half, zero, none = constant(0.5), constant(0.0), constant(None)
    return (
        make_metric("auroc", auroc, weighted_auroc, half),
        make_metric("auprc", auprc, weighted_auprc, auprc_chance),
        make_metric(
            "balanced_accuracy", balanced_accuracy, weighted_balanced_accuracy, _one_in_classes
        ),
        make_metric("f1", f1, weighted_f1, none),
        make_metric("kappa", kappa, weighted_kappa, zero),
        make_metric("brier", brier, weighted_brier, brier_chance, higher_is_better=False),
        # Who gives everyone the prevalence is calibrated: 0 is no sign of skill.
        # It is biased upwards, and more so in a draw: no percentiles of draws cover a 0.
        make_metric("ece", ece, weighted_ece, none, higher_is_better=False, interval=False),
    )


BINARY = _metrics(_prevalence, _brier_of_prevalence)
MULTICLASS = _metrics(_one_in_classes, _brier_of_shares)
