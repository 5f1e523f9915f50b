"""Metrics of predicted numbers.

Correlations are nan where the values or the scores do not vary, R² where the values do not. The
weighted forms take two passes, mean and then deviations, since sums of squares would lose the
digits of values far from 0.
"""

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn.metrics import mean_absolute_error, r2_score

from slidemill.evaluate.metrics.base import constant, make_metric, ratio, weighted_mean
from slidemill.splits.targets import Float64Array, Int64Array


def pearson(y: Float64Array, scores: Float64Array) -> float:
    """Pearson's correlation."""
    if not (_varies(y) and _varies(scores)):
        return float("nan")
    return float(stats.pearsonr(y[:, 0], scores[:, 0]).statistic)


def spearman(y: Float64Array, scores: Float64Array) -> float:
    """Spearman's rank correlation; equal values share their mean rank."""
    if not (_varies(y) and _varies(scores)):
        return float("nan")
    return float(stats.spearmanr(y[:, 0], scores[:, 0]).statistic)


def r2(y: Float64Array, scores: Float64Array) -> float:
    """Coefficient of determination: 0 for the mean of the values themselves, else below 1."""
    return float(r2_score(y[:, 0], scores[:, 0])) if _varies(y) else float("nan")


def mae(y: Float64Array, scores: Float64Array) -> float:
    """Mean absolute error, in the unit of the values."""
    return float(mean_absolute_error(y[:, 0], scores[:, 0]))


def weighted_pearson(y: Float64Array, scores: Float64Array, weights: Int64Array) -> Float64Array:
    """`pearson` for each row of case weights (draws, n)."""
    return _correlation(y.T, scores.T, weights)


def weighted_spearman(y: Float64Array, scores: Float64Array, weights: Int64Array) -> Float64Array:
    """`spearman` for each row of case weights (draws, n): ranks are within the draw."""
    return _correlation(_ranks(y[:, 0], weights), _ranks(scores[:, 0], weights), weights)


def weighted_r2(y: Float64Array, scores: Float64Array, weights: Int64Array) -> Float64Array:
    """`r2` for each row of case weights (draws, n)."""
    squared = np.square(y[:, 0] - scores[:, 0])
    spread = np.square(_deviations(y.T, weights))
    left = ratio(weights.astype(np.float64) @ squared, (weights * spread).sum(axis=1))
    return np.where(_varies_within(y.T, weights), 1.0 - left, np.nan)


def weighted_mae(y: Float64Array, scores: Float64Array, weights: Int64Array) -> Float64Array:
    """`mae` for each row of case weights (draws, n)."""
    return weighted_mean(np.abs(y[:, 0] - scores[:, 0]), weights)


def _varies(values: Float64Array) -> bool:
    return bool(np.ptp(values) > 0.0) if len(values) else False


def _varies_within(values: Float64Array, weights: Int64Array) -> npt.NDArray[np.bool_]:
    """Whether values (draws or 1, n) differ among the rows that have weight, (draws,)."""
    drawn = weights > 0
    lowest = np.where(drawn, values, np.inf).min(axis=1)
    highest = np.where(drawn, values, -np.inf).max(axis=1)
    return np.asarray(highest > lowest)


def _deviations(values: Float64Array, weights: Int64Array) -> Float64Array:
    """Values (draws or 1, n) less their mean in each draw, float64 (draws, n)."""
    totals = np.maximum(weights.sum(axis=1), 1)
    deviations: Float64Array = values - ((weights * values).sum(axis=1) / totals)[:, None]
    return deviations


def _correlation(a: Float64Array, b: Float64Array, weights: Int64Array) -> Float64Array:
    """Correlation of values (draws or 1, n) in each draw."""
    from_a, from_b = _deviations(a, weights), _deviations(b, weights)
    spreads = [(weights * np.square(each)).sum(axis=1) for each in (from_a, from_b)]
    found = ratio(
        (weights * from_a * from_b).sum(axis=1), np.sqrt(spreads[0]) * np.sqrt(spreads[1])
    )
    varied = _varies_within(a, weights) & _varies_within(b, weights)
    return np.where(varied, np.clip(found, -1.0, 1.0), np.nan)


def _ranks(values: Float64Array, weights: Int64Array) -> Float64Array:
    """Mid-ranks of the rows in each draw, from 1, float64 (draws, n).

    A row of weight w stands for w equal rows; all rows of one value share the mean of the ranks
    that they take together.
    """
    distinct, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(len(distinct)))
    tied = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks: Float64Array = (np.cumsum(tied, axis=1) - 0.5 * (tied - 1))[:, group]
    return ranks


def _error_of_median(y: Float64Array) -> float:
    return float(np.mean(np.abs(y - np.median(y))))


_zero = constant(0.0)
REGRESSION = (
    make_metric("pearson", pearson, weighted_pearson, _zero),
    make_metric("spearman", spearman, weighted_spearman, _zero),
    make_metric("r2", r2, weighted_r2, _zero),
    make_metric("mae", mae, weighted_mae, _error_of_median, higher_is_better=False),
)
