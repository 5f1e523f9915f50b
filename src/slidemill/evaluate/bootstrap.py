"""Estimates and 95 % intervals over patients.

The unit is the patient: probabilities of a patient's slides are averaged first, and patients, not
slides, are resampled, since slides of one patient are not independent and resampling them makes
intervals too narrow.

The headline is the metric on out-of-fold predictions pooled over the folds of a repetition,
averaged over repetitions. Pooling gives one number from all patients where single folds, with a
handful of positives each, would give noisy ones or none. It has a known bias: pooled ranks compare
patients who were scored by different models. Where class shares differ between folds, a model's
training share runs against its test share and the pooled AUROC falls, below 0.5 where there is
nothing to learn (Parker, Günter & Bedő 2007, doi:10.1186/1471-2105-8-326). Stratified folds remove
most of this; what remains, differing calibration of the models, biases downwards, and
`fold_metrics` shows the values without it.

The interval is for these predictions on other patients of the same kind. The models stay as they
are, so the variance of training (initial weights, which patients trained) is not in it.
"""

import numpy as np
import numpy.typing as npt
import pandas as pd

from slidemill.errors import CohortError
from slidemill.evaluate.metrics import METRICS, Int64Array

LEVEL = 0.95
"""Probability that the percentile interval leaves between its ends."""

MAX_ROUNDS = 60
"""Rounds in which draws that lack a class are drawn again.

With a patient in each class a draw lacks one with probability at most 1/2 + 1/2**n, so that so many
rounds never fail unless a class is absent.
"""

_BLOCK = 2_000_000
"""Draws x patients that are computed at once; bounds the memory and changes no value."""


def patient_predictions(predictions: pd.DataFrame) -> pd.DataFrame:
    """Mean probability over each patient's slides.

    Args:
        predictions: Of one model and input, one row a slide and repetition: `repeat`, `fold`,
            `patient_id`, `label` (0 or 1), `probability`.

    Returns:
        One row a repetition and patient, in this order: `repeat`, `fold`, `patient_id`, `label`,
        `probability` (float64).

    Raises:
        ValueError: If a patient has two labels, or two folds in a repetition.
    """
    keys = ["repeat", "patient_id", "fold", "label"]
    # Sorted first: the sum of floats, and so the mean, depends on the order of the slides.
    rows = predictions.sort_values([*keys, "probability"])
    means = rows.groupby(keys, sort=True)["probability"].mean().reset_index()
    if means.duplicated(["repeat", "patient_id"]).any():
        raise ValueError("a patient has more than one label or fold in a repetition")
    return means[["repeat", "fold", "patient_id", "label", "probability"]]


def bootstrap_intervals(predictions: pd.DataFrame, *, draws: int, seed: int) -> pd.DataFrame:
    """Headline of every metric with a 95 % percentile interval (Efron 1979).

    In each draw as many patients as there are, are drawn with replacement, the same ones for all
    repetitions and metrics. Draws without a positive or without a negative are drawn again, so
    intervals are conditional on both classes.

    Args:
        predictions: As for `patient_predictions`; every repetition has the same patients.
        draws: Number of draws.
        seed: Seed of the draws, not negative.

    Returns:
        One row a metric: `metric`, `estimate`, `low`, `high`, `n_patients`, `n_positive`.

    Raises:
        CohortError: If the patients are all of one class.
        ValueError: If repetitions differ in patients or labels, or as for `patient_predictions`.
    """
    y, probabilities = _by_repeat(patient_predictions(predictions))
    weights = _draw_weights(y, draws, seed)
    blocks = np.array_split(weights, -(-weights.size // _BLOCK))
    tail = (1.0 - LEVEL) / 2.0
    rows = []
    for metric in METRICS.values():
        estimate = np.mean([metric.function(y, p) for p in probabilities])
        drawn = np.concatenate(
            [np.mean([metric.weighted(y, p, block) for p in probabilities], 0) for block in blocks]
        )
        low, high = np.quantile(drawn, [tail, 1.0 - tail])
        rows.append((metric.name, float(estimate), float(low), float(high), len(y), int(y.sum())))
    columns = ["metric", "estimate", "low", "high", "n_patients", "n_positive"]
    return pd.DataFrame(rows, columns=columns)


def fold_metrics(predictions: pd.DataFrame) -> pd.DataFrame:
    """Every metric in each fold of each repetition, over patients.

    Args:
        predictions: As for `patient_predictions`.

    Returns:
        One row a metric, repetition and fold: `metric`, `repeat`, `fold`, `estimate` (nan where the
        fold has one class), `n_patients`, `n_positive`.

    Raises:
        ValueError: As for `patient_predictions`.
    """
    rows = []
    groups = patient_predictions(predictions).groupby(["repeat", "fold"], sort=True)
    parts = [(key, group["label"], group["probability"]) for key, group in groups]
    for metric in METRICS.values():
        for (repeat, fold), label, probability in parts:
            estimate = metric.function(label.to_numpy(np.int64), probability.to_numpy(np.float64))
            rows.append((metric.name, repeat, fold, estimate, len(label), int(label.sum())))
    columns = ["metric", "repeat", "fold", "estimate", "n_patients", "n_positive"]
    return pd.DataFrame(rows, columns=columns)


def _by_repeat(patients: pd.DataFrame) -> tuple[Int64Array, list[npt.NDArray[np.float64]]]:
    """Labels int64 (n,) and, for each repetition, probabilities (n,), of the sorted patients."""
    groups = [group for _, group in patients.groupby("repeat", sort=True)]
    if not groups:
        raise CohortError("there are no predictions to evaluate: no patient has a usable slide.")
    first = groups[0][["patient_id", "label"]].to_numpy()
    for group in groups[1:]:
        if not np.array_equal(group[["patient_id", "label"]].to_numpy(), first):
            raise ValueError("repetitions differ in their patients or labels")
    labels = groups[0]["label"].to_numpy(np.int64)
    return labels, [group["probability"].to_numpy(np.float64) for group in groups]


def _draw_weights(y: Int64Array, draws: int, seed: int) -> Int64Array:
    """How often each patient is in each draw, int64 (draws, n), each draw with both classes."""
    rng = np.random.default_rng(seed)
    n = len(y)
    weights = np.zeros((draws, n), dtype=np.int64)
    pending = np.arange(draws)
    for _ in range(MAX_ROUNDS):
        weights[pending] = rng.multinomial(n, np.full(n, 1.0 / n), size=len(pending))
        positives = weights[pending] @ y
        pending = pending[(positives == 0) | (positives == n)]
        if not len(pending):
            return weights
    raise CohortError(
        f"{int(y.sum())} of {n} patients are positive: an interval takes patients of both classes. "
        "Add patients, or mend the labels."
    )
