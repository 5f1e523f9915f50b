"""Cox regression with an L2 penalty, on one vector a slide.

Features are standardised by the training rows alone. The objective is minus the partial
log-likelihood (Cox 1972), ties by Breslow's method, plus ||w||^2 / (2 s): a strength s is
scikit-survival's alpha = 1 / s, and means the same as the C of the linear probe. It is brought to
its minimum by Newton's method in float64. (torchsurv's loss is in float32.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from slidemill.evaluate.probes.base import (
    Fitted,
    Float64Array,
    Int64Array,
    Settings,
    Space,
    check_rows,
    one_thread,
)
from slidemill.evaluate.probes.inner import STRENGTHS, Fold, choose, deal
from slidemill.splits.targets import EVENT, TIME, Targets

MAX_STEPS = 200
"""Newton steps at most; ten are usual, and convergence ends the fit."""

MAX_HALVINGS = 40
"""Times that a step is halved until the objective falls."""

TOLERANCE = 1e-12
"""What a last step would gain by the quadratic model, twice, per event: then a fit has converged.

That step is taken still, and it squares an error of already about 1e-6.
"""


def fit(
    x: Float64Array,
    targets: Targets,
    patients: Sequence[str],
    settings: Settings,
    *,
    inner_folds: int,
    seed: int,
) -> Fitted:
    """Fit a Cox regression.

    The strength is the one of the highest cross-validated partial likelihood (Verweij & van
    Houwelingen 1993, doi:10.1002/sim.4780122407): what the held-out rows add to the partial
    log-likelihood of the others, summed over the inner folds. The fit is then on all rows. Where
    it stopped for another reason than convergence, `chosen` says `unconverged`.

    Args:
        x: Vectors of the training rows, float64 (n, D), finite.
        targets: Of a survival task.
        patients: Patient of each row.
        settings: `linear_probe.strength` is 1 / alpha, or `inner`.
        inner_folds: Inner folds at most.
        seed: Seed of the inner folds, below 2**32.

    Returns:
        The model; its score is the logarithm of the relative risk.

    Raises:
        ValueError: If no event was seen, or for another type of task.
    """
    check_rows(x, targets, patients)
    if targets.type != "survival":
        raise ValueError(f"cox does no {targets.type} tasks")
    if not targets.values[:, EVENT].any():
        raise ValueError("cox is trained on an event at least; none was seen")
    wanted = settings.linear_probe.strength
    folds = _folds(targets, patients, inner_folds, seed) if wanted == "inner" else []
    with one_thread():
        choice = choose(wanted, folds, _Losses(x, targets.values))
        space, z = Space.of(x)
        weights, converged = _minimise(z, targets.values, choice.strength, np.zeros(z.shape[1]))
    record = dict(choice.record) | ({} if converged else {"unconverged": 1.0})
    return Fitted(lambda rows: (space.coordinates(rows) @ weights)[:, None], record)


@dataclass(frozen=True)
class PartialLikelihood:
    """Breslow's partial log-likelihood of fixed rows.

    Attributes:
        order: Rows by descending time, so that those at risk come first, int64 (n,).
        event: Whether the event was seen, in that order, float64 (n,).
        first: First of the rows that share a row's time, in that order, int64 (n,).
        last: Last of them.
    """

    order: Int64Array
    event: Float64Array
    first: Int64Array
    last: Int64Array

    @classmethod
    def of(cls, values: Float64Array) -> "PartialLikelihood":
        """The likelihood of rows with times and events, float64 (n, 2)."""
        order = np.argsort(-values[:, TIME], kind="stable")
        falling = -values[order, TIME]
        first = np.searchsorted(falling, falling, side="left")
        last = np.searchsorted(falling, falling, side="right") - 1
        return cls(order, values[order, EVENT], first, last)

    def loss(self, risk: Float64Array) -> tuple[float, Float64Array]:
        """Minus the log-likelihood of log risks (n,), and its gradient by them, (n,)."""
        ordered, running, hazard = self._logarithms(risk)
        gradient = np.empty_like(risk)
        gradient[self.order] = np.exp(ordered + hazard) - self.event
        return float(self.event @ (running[self.last] - ordered)), gradient

    def curvature(self, risk: Float64Array, z: Float64Array) -> Float64Array:
        """Second derivatives of the loss by weights w of log risks z w, float64 (r, r).

        That is the covariance of z among those at risk, summed over events.
        """
        ordered, running, hazard = self._logarithms(risk)
        rows = z[self.order]
        # Mean of z among those at risk, row by row: in one cumulative sum the small risks of the
        # longest times would be lost beside large ones.
        kept, added = np.exp(running[:-1] - running[1:]), np.exp(ordered - running)
        means = rows * added[:, None]
        for i in range(1, len(means)):
            means[i] += kept[i - 1] * means[i - 1]
        means = means[self.last[self.event > 0]]
        weighted = rows * np.exp(ordered + hazard)[:, None]
        second: Float64Array = weighted.T @ rows - means.T @ means
        return second

    def _logarithms(self, risk: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Of each row, in order: its log risk, that of all rows so far, its log hazard.

        Sums are kept as logarithms, so that no risk is too large or too small.
        """
        ordered = risk[self.order]
        running = np.logaddexp.accumulate(ordered)
        inverse = np.where(self.event > 0, -running[self.last], -np.inf)
        hazard = np.logaddexp.accumulate(inverse[::-1])[::-1][self.first]
        return ordered, running, hazard


class _Losses:
    """Minus what held-out rows add to the partial log-likelihood, at every strength."""

    def __init__(self, x: Float64Array, values: Float64Array) -> None:
        self.x, self.values = x, values

    def __call__(self, train: Int64Array, held: Int64Array) -> Float64Array:
        del held  # what all rows have beyond the training rows
        space, z = Space.of(self.x[train])
        everyone = space.coordinates(self.x)
        full = PartialLikelihood.of(self.values)
        part = PartialLikelihood.of(self.values[train])
        weights = np.zeros(z.shape[1])
        losses = np.empty(len(STRENGTHS))
        for i, strength in enumerate(STRENGTHS):
            # Each strength starts where the one before ended.
            weights, _ = _minimise(z, self.values[train], strength, weights)
            losses[i] = full.loss(everyone @ weights)[0] - part.loss(z @ weights)[0]
        return losses


def _folds(targets: Targets, patients: Sequence[str], most: int, seed: int) -> list[Fold]:
    """Inner folds, stratified by event where there are enough patients of both kinds."""
    names = np.asarray(patients, dtype=np.str_)
    events = targets.strata()
    seen, censored = (len(np.unique(names[events == event])) for event in (1, 0))
    if seen < 2:
        return []
    few = 0 < censored < min(most, seen)
    return deal(np.ones_like(events) if few else events, patients, most, seed)


def _minimise(
    z: Float64Array, values: Float64Array, strength: float, start: Float64Array
) -> tuple[Float64Array, bool]:
    """Weights (r,) of standardised coordinates (n, r), and whether they converged."""
    likelihood = PartialLikelihood.of(values)
    events = likelihood.event.sum()

    def objective(weights: Float64Array) -> tuple[float, Float64Array]:
        lost, gradient = likelihood.loss(z @ weights)
        penalty = float(weights @ weights) / (2.0 * strength)
        return lost + penalty, gradient @ z + weights / strength

    weights = start
    now, gradient = objective(weights)
    for _ in range(MAX_STEPS):
        hessian = likelihood.curvature(z @ weights, z)
        hessian[np.diag_indices_from(hessian)] += 1.0 / strength
        step = scipy.linalg.solve(hessian, gradient, assume_a="pos", check_finite=False)
        gain = float(gradient @ step)
        if gain <= TOLERANCE * events:
            return weights - step, True
        for halving in range(MAX_HALVINGS):
            moved = weights - step / 2.0**halving
            value, slope = objective(moved)
            if value <= now - 1e-4 * gain / 2.0**halving:  # Armijo's rule
                break
        else:
            return weights, False
        weights, now, gradient = moved, value, slope
    return weights, False
