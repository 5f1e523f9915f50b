"""What classes, probabilities and decisions mean to the metrics of classification.

Plain and weighted forms share these, so that they cannot differ in a threshold or an edge.
"""

import numpy as np

from slidemill.splits.targets import Float64Array, Int64Array

THRESHOLD = 0.5
"""Probabilities from here on count as predicted positive, where there is one score a row."""

BINS = 10
"""Bins of the calibration error."""


def class_count(scores: Float64Array) -> int:
    """Number of classes of scores (n, K): K, and 2 where K is 1."""
    return max(2, int(scores.shape[1]))


def classes(y: Float64Array) -> Int64Array:
    """Class of each row, int64 (n,), from values (n, 1)."""
    return y[:, 0].astype(np.int64)


def predicted(scores: Float64Array) -> Int64Array:
    """Predicted class of each row, int64 (n,)."""
    if scores.shape[1] == 1:
        return (scores[:, 0] >= THRESHOLD).astype(np.int64)
    best: Int64Array = scores.argmax(axis=1).astype(np.int64)
    return best


def one_against_rest(y: Float64Array, scores: Float64Array) -> Float64Array:
    """1 where a row is of the class that a score is of, else 0; float64 (n, K)."""
    if scores.shape[1] == 1:
        return y
    return np.asarray(y == np.arange(scores.shape[1]), dtype=np.float64)


def all_classes(y: Float64Array, scores: Float64Array) -> bool:
    """Whether every class has a row."""
    return len(np.unique(y)) == class_count(scores)


def confidence(scores: Float64Array) -> Float64Array:
    """The probability that calibration is about: of the positive or the predicted class, (n,).

    Raises:
        ValueError: If a score is not a probability.
    """
    checked = probabilities(scores)
    believed: Float64Array = checked[:, 0] if checked.shape[1] == 1 else checked.max(axis=1)
    return believed


def outcome(y: Float64Array, scores: Float64Array) -> Float64Array:
    """Whether what `confidence` is the probability of is so, 1 or 0, float64 (n,)."""
    if scores.shape[1] == 1:
        return y[:, 0]
    return np.asarray(classes(y) == predicted(scores), dtype=np.float64)


def bins(values: Float64Array) -> Int64Array:
    """Bin of each probability, int64 (n,)."""
    # Edges as the nearest floats of 0.1, 0.2, ...: 0.3 must be in the bin that starts with it,
    # which steps of 0.1 that are added up do not give.
    edges = np.arange(1, BINS) / BINS
    return np.asarray(np.searchsorted(edges, values, side="right"), dtype=np.int64)


def squared_errors(y: Float64Array, scores: Float64Array) -> Float64Array:
    """Squared error of each row's probabilities, summed over its scores, float64 (n,).

    Raises:
        ValueError: If a score is not a probability.
    """
    errors = probabilities(scores) - one_against_rest(y, scores)
    summed: Float64Array = np.square(errors).sum(axis=1)
    return summed


def probabilities(scores: Float64Array) -> Float64Array:
    """The scores, if all are between 0 and 1.

    Raises:
        ValueError: If they are not.
    """
    if not ((scores >= 0.0) & (scores <= 1.0)).all():
        raise ValueError("scores of a classification are probabilities, between 0 and 1")
    return scores
