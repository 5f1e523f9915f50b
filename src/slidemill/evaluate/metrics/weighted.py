"""Metrics of classification under many weightings of the rows at once.

Every function takes values float64 (n, 1), scores float64 (n, K) and case weights int64 (draws, n),
and gives float64 (draws,): what the plain function of `classification` gives for the rows repeated
by their weights, exact up to rounding, and nan for draws for which it is undefined. Sums of weights
are whole numbers below 2**53, so that floats hold them exactly.
"""

import numpy as np

from slidemill.evaluate.metrics.base import ratio, weighted_mean
from slidemill.evaluate.metrics.decisions import (
    BINS,
    bins,
    class_count,
    classes,
    confidence,
    one_against_rest,
    outcome,
    predicted,
    squared_errors,
)
from slidemill.splits.targets import Float64Array, Int64Array


def weighted_auroc(y: Float64Array, scores: Float64Array, weights: Int64Array) -> Float64Array:
    """Area under the ROC curve by the trapezoidal rule; the mean over classes."""
    truths = one_against_rest(y, scores)
    areas = [_auroc(t, s, weights) for t, s in zip(truths.T, scores.T, strict=True)]
    return np.asarray(np.mean(areas, axis=0), dtype=np.float64)


def weighted_auprc(y: Float64Array, scores: Float64Array, weights: Int64Array) -> Float64Array:
    """Average precision; the mean over classes."""
    truths = one_against_rest(y, scores)
    areas = [_auprc(t, s, weights) for t, s in zip(truths.T, scores.T, strict=True)]
    return np.asarray(np.mean(areas, axis=0), dtype=np.float64)


def weighted_balanced_accuracy(
    y: Float64Array, scores: Float64Array, weights: Int64Array
) -> Float64Array:
    """Mean over classes of the share that is predicted right."""
    table = _confusion(y, scores, weights)
    recalls = ratio(np.diagonal(table, axis1=1, axis2=2), table.sum(axis=2))
    return np.asarray(recalls.mean(axis=1), dtype=np.float64)


def weighted_f1(y: Float64Array, scores: Float64Array, weights: Int64Array) -> Float64Array:
    """F1 of the positive class, or the mean over classes."""
    table = _confusion(y, scores, weights)
    of_class, as_class = table.sum(axis=2), table.sum(axis=1)
    each = ratio(2.0 * np.diagonal(table, axis1=1, axis2=2), of_class + as_class)
    values = each[:, 1] if scores.shape[1] == 1 else each.mean(axis=1)
    return np.where((of_class > 0).all(axis=1), values, np.nan)


def weighted_kappa(y: Float64Array, scores: Float64Array, weights: Int64Array) -> Float64Array:
    """Cohen's kappa with quadratic weights."""
    table = _confusion(y, scores, weights)
    order = np.arange(table.shape[1])
    distance = np.square(order[:, None] - order)
    of_class, as_class = table.sum(axis=2), table.sum(axis=1)
    seen = np.einsum("dij,ij->d", table, distance) * of_class.sum(axis=1)
    by_chance = np.einsum("di,dj,ij->d", of_class, as_class, distance, optimize=True)
    return np.where((of_class > 0).all(axis=1), 1.0 - ratio(seen, by_chance), np.nan)


def weighted_brier(y: Float64Array, scores: Float64Array, weights: Int64Array) -> Float64Array:
    """Mean squared error of the probabilities, summed over classes."""
    return weighted_mean(squared_errors(y, scores), weights)


def weighted_ece(y: Float64Array, scores: Float64Array, weights: Int64Array) -> Float64Array:
    """Expected calibration error; see `classification.ece`."""
    believed = confidence(scores)
    errors = np.zeros((len(y), BINS))
    errors[np.arange(len(y)), bins(believed)] = believed - outcome(y, scores)
    as_floats = weights.astype(np.float64)
    return ratio(np.abs(as_floats @ errors).sum(axis=1), as_floats.sum(axis=1))


def _auroc(truth: Float64Array, scores: Float64Array, weights: Int64Array) -> Float64Array:
    positives, negatives = _weights_by_threshold(truth, scores, weights)
    found = np.cumsum(positives, axis=1)
    # A threshold adds its negatives as a strip whose height grows from the found positives before
    # it to those after it: half of the pairs tied at the threshold count.
    area = np.sum(negatives * (found - 0.5 * positives), axis=1)
    return ratio(area, positives.sum(axis=1) * negatives.sum(axis=1))


def _auprc(truth: Float64Array, scores: Float64Array, weights: Int64Array) -> Float64Array:
    positives, negatives = _weights_by_threshold(truth, scores, weights)
    found = np.cumsum(positives, axis=1)
    selected = np.cumsum(positives + negatives, axis=1)
    # Before the first row of any weight, nothing is selected and recall does not step.
    precision = found / np.maximum(selected, 1)
    values = ratio(np.sum(positives * precision, axis=1), positives.sum(axis=1))
    return np.where(negatives.sum(axis=1) > 0, values, np.nan)


def _weights_by_threshold(
    truth: Float64Array, scores: Float64Array, weights: Int64Array
) -> tuple[Int64Array, Int64Array]:
    """Weight of the positives and of the negatives at each distinct score, highest first.

    Returns:
        Two arrays int64 (draws, thresholds).
    """
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    sorted_weights, positive = weights[:, order], truth[order] == 1
    return (
        np.add.reduceat(sorted_weights * positive, starts, axis=1),
        np.add.reduceat(sorted_weights * ~positive, starts, axis=1),
    )


def _confusion(y: Float64Array, scores: Float64Array, weights: Int64Array) -> Float64Array:
    """Weight of each true (rows) and predicted (columns) class, float64 (draws, C, C)."""
    count = class_count(scores)
    cells = classes(y) * count + predicted(scores)
    order = np.argsort(cells, kind="stable")
    filled, starts = np.unique(cells[order], return_index=True)
    table = np.zeros((len(weights), count * count))
    table[:, filled] = np.add.reduceat(weights[:, order], starts, axis=1)
    return table.reshape(-1, count, count)
