"""Linear probe: L2-regularised logistic regression on one vector a slide.

Features are standardised by the training rows alone, and classes weigh alike whatever their sizes.
Several classes are fitted together (multinomial), several labels one by one, each on the rows where
it is known. Numbers are scikit-learn's L-BFGS in float64.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_sample_weight

from slidemill.evaluate.probes.base import (
    Fitted,
    Float64Array,
    Int64Array,
    Settings,
    Space,
    Task,
    check_rows,
    one_thread,
    tasks_of,
)
from slidemill.evaluate.probes.inner import STRENGTHS, choose, deal
from slidemill.splits.targets import Targets

MAX_ITERATIONS = 10_000
"""Iterations of L-BFGS at most; high enough that convergence ends the fit."""

TOLERANCE = 1e-8
"""Largest gradient of the mean loss at which a fit has converged."""

INNER_TOLERANCE = 1e-6
"""The same on inner folds, where strengths a factor of ten apart are compared."""


def fit(
    x: Float64Array,
    targets: Targets,
    patients: Sequence[str],
    settings: Settings,
    *,
    inner_folds: int,
    seed: int,
) -> Fitted:
    """Fit a linear probe.

    The strength is the one of the lowest log loss on held-out rows of the inner folds, in which
    classes weigh alike as they do in training; the fit is then on all rows. Where L-BFGS stopped
    for another reason than convergence, `chosen` says `unconverged`.

    Args:
        x: Vectors of the training rows, float64 (n, D), finite.
        targets: Of a binary, multiclass or multilabel task.
        patients: Patient of each row.
        settings: `linear_probe.strength` is the C, or `inner`.
        inner_folds: Inner folds at most.
        seed: Seed of the inner folds, below 2**32.

    Returns:
        The probe. A class that no training row has, has a probability of 0.

    Raises:
        ValueError: If a label has one class only, or for another type of task.
    """
    check_rows(x, targets, patients)
    wanted = settings.linear_probe.strength
    models: list[_Model] = []
    chosen: dict[str, float] = {}
    with one_thread():
        for task in tasks_of(targets, "linear-probe"):
            rows, names = x[task.rows], [patients[i] for i in task.rows]
            folds = deal(task.classes, names, inner_folds, seed) if wanted == "inner" else []
            choice = choose(wanted, folds, _Losses(rows, task.classes), task.suffix)
            space, z = Space.of(rows)
            regression = _regression(choice.strength, TOLERANCE)
            converged = _fit(regression, z, task.classes)
            models.append(_Model(task, space, regression))
            chosen.update(choice.record)
            if not converged:
                chosen[f"unconverged{task.suffix}"] = 1.0
    return Fitted(lambda x: np.concatenate([one.predict(x) for one in models], axis=1), chosen)


@dataclass(frozen=True)
class _Model:
    """The fit of one label."""

    task: Task
    space: Space
    regression: LogisticRegression

    def predict(self, x: Float64Array) -> Float64Array:
        probabilities = self.regression.predict_proba(self.space.coordinates(x))
        return self.task.spread(probabilities)


class _Losses:
    """Balanced log loss of held-out rows at every strength."""

    def __init__(self, x: Float64Array, classes: Int64Array) -> None:
        self.x, self.classes = x, classes
        self.weights = compute_sample_weight("balanced", classes)

    def __call__(self, train: Int64Array, held: Int64Array) -> Float64Array:
        space, z = Space.of(self.x[train])
        outside = space.coordinates(self.x[held])
        # Each strength starts where the one before ended.
        model = _regression(1.0, INNER_TOLERANCE).set_params(warm_start=True)
        losses = np.empty(len(STRENGTHS))
        for i, strength in enumerate(STRENGTHS):
            _fit(model.set_params(C=strength), z, self.classes[train])
            decisions = model.decision_function(outside)
            if decisions.ndim == 1:
                decisions = np.stack([np.zeros_like(decisions), decisions], axis=1)
            column = np.searchsorted(model.classes_, self.classes[held])
            each = -log_softmax(decisions, axis=1)[np.arange(len(held)), column]
            losses[i] = self.weights[held] @ each
        return losses


def _regression(strength: float, tolerance: float) -> LogisticRegression:
    return LogisticRegression(
        C=strength, class_weight="balanced", tol=tolerance, max_iter=MAX_ITERATIONS
    )


def _fit(model: LogisticRegression, z: Float64Array, classes: Int64Array) -> bool:
    """Whether the fit converged."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(z, classes)
    others = [one for one in caught if not issubclass(one.category, ConvergenceWarning)]
    for one in others:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return len(others) == len(caught)
