"""Estimates over patients, and draws of patients for their 95 % intervals.

The unit is the patient: scores of a patient's slides are averaged first, and patients, not slides,
are resampled, since slides of one patient are not independent and resampling them makes intervals
too narrow (`benchmarks/bootstrap_coverage.py` measures how much).

The headline is the metric on out-of-fold predictions pooled over the folds of a repetition and
draw, averaged over these. Pooling gives one number from all patients where single folds, with a
handful of positives each, would give noisy ones or none. It has a known bias: pooled ranks compare
patients who were scored by different models. Where class shares differ between folds, a model's
training share runs against its test share and the pooled AUROC falls, below 0.5 where there is
nothing to learn (Parker, Günter & Bedő 2007, doi:10.1186/1471-2105-8-326). Stratified folds remove
most of this; what remains, differing calibration of the models, biases downwards, and the rows of
single folds show the values without it.

The interval is for these predictions on other patients of the same kind. The models stay as they
are, so the variance of training (initial weights, which patients trained) is not in it.

Intervals are bias-corrected percentiles (Efron 1981, doi:10.2307/3314608): quantiles of the draws,
at levels that move with the share of draws below the estimate. In the benchmark's 500 cohorts they
cover 93 to 97 % from 60 patients on for AUROC between .7 and .9 and for Harrell's C, and from 100
for Pearson; below that 91 to 95 %. Plain percentiles cover less near the end of a scale: of an
AUROC of .91, 87 % with 30 patients and 91 % with 60, where these have 91 and 94 %. An estimate of
exactly 1 has an interval of no width. The calibration error has none: its estimate is biased
upwards, and of a calibrated model no interval of this kind covers the 0.

A draw in which a metric is undefined, such as one without a positive patient, is left out of that
metric's interval, which equals drawing again: intervals are conditional on both classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from slidemill.evaluate.metrics import Metric
from slidemill.evaluate.panel import Panel
from slidemill.splits.targets import Float64Array, Int64Array

LEVEL = 0.95
"""Nominal coverage of the intervals."""

LEAST_DRAWS = 40
"""Draws in which a metric must be defined: one beyond each end of the interval."""

_EQUAL = 1e-12
"""Distance up to which two values of a metric are the same one, summed in another order."""

_BLOCK = 2_000_000
"""Draws x patients that are computed at once; bounds the memory and changes no value."""


@dataclass(frozen=True)
class Summary:
    """A metric of one target over all its groups.

    Attributes:
        estimate: The headline; nan where it is undefined.
        drawn: The same in each draw of patients, float64 (draws,); nan where it is undefined, and
            empty where there is no interval.
    """

    estimate: float
    drawn: Float64Array

    def interval(self) -> tuple[float, float]:
        """Bias-corrected percentile interval; nan without an estimate or enough draws."""
        defined = self.drawn[~np.isnan(self.drawn)]
        if math.isnan(self.estimate) or len(defined) < LEAST_DRAWS:
            return math.nan, math.nan
        # Draws equal to the estimate, up to rounding, are half below it. Half a draw is added on
        # either side, so that the shift is finite where all are on one.
        equal = np.abs(defined - self.estimate) <= _EQUAL
        below = np.sum((defined < self.estimate) & ~equal) + 0.5 * np.sum(equal)
        shift = special.ndtri((below + 0.5) / (len(defined) + 1.0))
        end = special.ndtri(0.5 + 0.5 * LEVEL)
        levels = special.ndtr([2.0 * shift - end, 2.0 * shift + end])
        low, high = np.quantile(defined, levels)
        return float(low), float(high)


def draw_weights(patients: int, draws: int, seed: int) -> Int64Array:
    """How often each patient is in each draw with replacement, int64 (draws, patients).

    The same for all models that test so many patients, sorted by id: differences are paired.

    Args:
        patients: Number of patients, and of patients in a draw.
        draws: Number of draws.
        seed: Seed, not negative.
    """
    drawn = np.random.default_rng(seed).integers(patients, size=(draws, patients))
    cells = drawn + patients * np.arange(draws)[:, None]
    counts = np.bincount(cells.ravel(), minlength=draws * patients)
    return counts.reshape(draws, patients).astype(np.int64)


def summarise(panel: Panel, metric: Metric, weights: Int64Array) -> Summary:
    """A metric over all groups of a target, averaged over the groups.

    Args:
        panel: The target's predictions.
        metric: The metric.
        weights: Draws of the panel's patients, int64 (draws, patients). A group uses the weights
            of its own patients.

    Returns:
        The estimate and draws; nan where the metric is undefined in any group.
    """
    if not panel.groups:
        return Summary(math.nan, np.full(len(weights), math.nan))
    estimate = float(np.mean([metric.function(g.y, g.scores) for g in panel.groups]))
    if not metric.interval:
        return Summary(estimate, np.zeros(0))
    blocks = np.array_split(weights, max(1, -(-weights.size // _BLOCK)))
    drawn = [
        np.mean([metric.weighted(g.y, g.scores, block[:, g.rows]) for g in panel.groups], axis=0)
        for block in blocks
    ]
    return Summary(estimate, np.concatenate(drawn))


def macro(summaries: Sequence[Summary]) -> Summary:
    """Mean over labels.

    Labels whose estimate is undefined are left out, here and in every draw; a draw in which one of
    the others is undefined is undefined.
    """
    defined = [summary for summary in summaries if not math.isnan(summary.estimate)]
    if not defined:
        return summaries[0]
    estimate = float(np.mean([summary.estimate for summary in defined]))
    drawn = np.mean([summary.drawn for summary in defined], axis=0)
    return Summary(estimate, np.asarray(drawn, dtype=np.float64))
