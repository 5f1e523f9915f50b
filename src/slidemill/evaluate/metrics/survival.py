"""Concordance of risks with times to an event.

Of two patients the one whose event was seen first should have the higher risk. Such a pair is
comparable if the other one's time is later, or the same and censored; equal risks count one half.

These are our own. torchsurv 0.2 compares risks in single precision, so that different risks tie,
and its censoring weights are in single precision, which its C refuses beside float64;
scikit-survival is under the GPL. Where they are right, the tests hold these to them. Risks tie only
if they are the same number, so that C is the same for any increasing function of the risk.
"""

import numpy as np

from slidemill.evaluate.metrics.base import constant, make_metric, ratio
from slidemill.splits.targets import EVENT, TIME, Float64Array, Int64Array

_PAIRS = 4_000_000
"""Pairs of patients that are compared at once; bounds the memory."""


def c_harrell(y: Float64Array, scores: Float64Array) -> float:
    """Harrell's C: the concordant share of comparable pairs (Harrell et al. 1996).

    With censoring it depends on how long patients were followed. nan without a comparable pair.
    """
    return float(weighted_c_harrell(y, scores, _once(y))[0])


def c_uno(y: Float64Array, scores: Float64Array) -> float:
    """Uno's C: pairs weigh by the chance that their event was seen (Uno et al. 2011).

    The weight is 1 / G(t)**2, with t the time of the earlier event and G the Kaplan-Meier estimate,
    from the same patients, of being uncensored beyond t. tau is the largest time of an event, so
    that no pair is cut off (scikit-survival's default); only events at which G is 0, at the very
    last time, are left out, as their weight would be infinite. nan without a comparable pair.
    """
    return float(weighted_c_uno(y, scores, _once(y))[0])


def weighted_c_harrell(y: Float64Array, scores: Float64Array, weights: Int64Array) -> Float64Array:
    """`c_harrell` for each row of case weights (draws, n)."""
    as_floats = weights.astype(np.float64)
    return _concordance(y, scores, as_floats, as_floats)


def weighted_c_uno(y: Float64Array, scores: Float64Array, weights: Int64Array) -> Float64Array:
    """`c_uno` for each row of case weights (draws, n): censoring is estimated in each draw."""
    as_floats = weights.astype(np.float64)
    seen = _uncensored(y, as_floats)
    squared = np.divide(1.0, np.square(seen), out=np.zeros_like(seen), where=seen > 0.0)
    return _concordance(y, scores, as_floats * squared, as_floats)


def _once(y: Float64Array) -> Int64Array:
    return np.ones((1, len(y)), dtype=np.int64)


def _concordance(
    y: Float64Array, scores: Float64Array, first: Float64Array, second: Float64Array
) -> Float64Array:
    """Concordant share of the comparable pairs.

    Args:
        y: Times and events (n, 2).
        scores: Risks (n, 1).
        first: Weight of each patient as the one with the earlier event, (draws, n).
        second: Weight of each as the other one, (draws, n).

    Returns:
        float64 (draws,); nan where no pair has weight.
    """
    time, risk = y[:, TIME], scores[:, 0]
    censored = y[:, EVENT] == 0.0
    events = np.flatnonzero(~censored)
    concordant, comparable = np.zeros(len(first)), np.zeros(len(first))
    parts = -(-len(events) * len(y) // _PAIRS) or 1
    for rows in np.array_split(events, parts):
        own_time, own_risk = time[rows, None], risk[rows, None]
        pairs = (own_time < time) | ((own_time == time) & censored)
        right = pairs * ((own_risk > risk) + 0.5 * (own_risk == risk))
        concordant += ((first[:, rows] @ right) * second).sum(axis=1)
        comparable += ((first[:, rows] @ pairs.astype(np.float64)) * second).sum(axis=1)
    return ratio(concordant, comparable)


def _uncensored(y: Float64Array, weights: Float64Array) -> Float64Array:
    """Kaplan-Meier estimate of being uncensored beyond each patient's time, (draws, n).

    Who has an event at a time is no longer at risk of being censored at that time.
    """
    distinct, group = np.unique(y[:, TIME], return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(len(distinct)))
    leaving = np.add.reduceat(weights[:, order], starts, axis=1)
    censored = np.add.reduceat((weights * (y[:, EVENT] == 0.0))[:, order], starts, axis=1)
    after = weights.sum(axis=1, keepdims=True) - np.cumsum(leaving, axis=1)
    # At risk of censoring: those who stay beyond the time, and those censored at it.
    at_risk = after + censored
    lost = np.divide(censored, at_risk, out=np.zeros_like(censored), where=at_risk > 0.0)
    uncensored: Float64Array = np.cumprod(1.0 - lost, axis=1)[:, group]
    return uncensored


SURVIVAL = (
    make_metric("c_harrell", c_harrell, weighted_c_harrell, constant(0.5)),
    make_metric("c_uno", c_uno, weighted_c_uno, constant(0.5)),
)
