"""Ridge regression on one vector a slide.

Features and the target are standardised by the training rows alone. The objective is half the
squared errors summed over rows, plus ||w||^2 / (2 s): a strength s is scikit-learn's alpha = 1 / s,
in units of the standardised target, and means the same as the C of the linear probe.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import Ridge

from slidemill.evaluate.probes.base import (
    Fitted,
    Float64Array,
    Int64Array,
    Settings,
    Space,
    check_rows,
    one_thread,
)
from slidemill.evaluate.probes.inner import STRENGTHS, choose, deal_patients
from slidemill.splits.targets import Targets


def fit(
    x: Float64Array,
    targets: Targets,
    patients: Sequence[str],
    settings: Settings,
    *,
    inner_folds: int,
    seed: int,
) -> Fitted:
    """Fit a ridge regression.

    The strength is the one of the lowest squared error on held-out rows of the inner folds; the fit
    is then on all rows.

    Args:
        x: Vectors of the training rows, float64 (n, D), finite.
        targets: Of a regression task.
        patients: Patient of each row.
        settings: `linear_probe.strength` is 1 / alpha, or `inner`.
        inner_folds: Inner folds at most.
        seed: Seed of the inner folds.

    Returns:
        The model.

    Raises:
        ValueError: If all rows have the same target, or for another type of task.
    """
    check_rows(x, targets, patients)
    if targets.type != "regression":
        raise ValueError(f"ridge does no {targets.type} tasks")
    y = targets.values[:, 0]
    if y.min() == y.max():
        raise ValueError("ridge is trained on two values at least; all rows have the same")
    wanted = settings.linear_probe.strength
    folds = deal_patients(patients, inner_folds, seed) if wanted == "inner" else []
    with one_thread():
        choice = choose(wanted, folds, _Losses(x, y))
        model = _Ridge(x, y, np.array([choice.strength]))
    return Fitted(model.predict, choice.record)


class _Ridge:
    """Ridge regressions of S strengths on the same rows, by one singular value decomposition."""

    def __init__(self, x: Float64Array, y: Float64Array, strengths: Float64Array) -> None:
        self.space, z = Space.of(x)
        self.mean, self.scale = y.mean(), y.std() or 1.0
        wanted = np.repeat((y[:, None] - self.mean) / self.scale, len(strengths), axis=1)
        # The intercept is 0, since both sides are centred.
        self.model = Ridge(alpha=1.0 / strengths, solver="svd", fit_intercept=False)
        self.model.fit(z, wanted)

    def predict(self, x: Float64Array) -> Float64Array:
        """float64 (n, S)."""
        standard = self.model.predict(self.space.coordinates(x)).reshape(len(x), -1)
        found: Float64Array = standard * self.scale + self.mean
        return found


class _Losses:
    """Squared error of held-out rows at every strength."""

    def __init__(self, x: Float64Array, y: Float64Array) -> None:
        self.x, self.y = x, y

    def __call__(self, train: Int64Array, held: Int64Array) -> Float64Array:
        found = _Ridge(self.x[train], self.y[train], STRENGTHS).predict(self.x[held])
        errors: Float64Array = ((found - self.y[held, None]) ** 2).sum(axis=0)
        return errors
