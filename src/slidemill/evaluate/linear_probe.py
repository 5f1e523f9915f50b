"""Linear probe: L2-regularised logistic regression on one vector a slide.

Vectors are standardised by mean and standard deviation of the training rows alone; classes weigh
alike whatever their sizes. The same rows give the same probe, bit for bit on one machine.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from slidemill.config import LinearProbeConfig

MAX_ITERATIONS = 10_000
"""Iterations of L-BFGS at most; high enough that convergence ends the fit."""


@dataclass(frozen=True)
class FittedLinearProbe:
    """A linear probe after training.

    Attributes:
        pipeline: Standardisation and logistic regression, fitted.
    """

    pipeline: Pipeline

    def predict(self, x: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Probability of the positive class, float64 (n,), for vectors (n, D)."""
        probabilities: npt.NDArray[np.float64] = self.pipeline.predict_proba(x.astype(np.float64))
        return probabilities[:, 1]


def fit_linear_probe(
    x: npt.NDArray[np.floating],
    y: npt.NDArray[np.int64],
    cfg: LinearProbeConfig,
    *,
    seed: int,
) -> FittedLinearProbe:
    """Fit a linear probe on training rows.

    Args:
        x: Vectors of the training slides (n, D), computed with in float64.
        y: Their labels, 0 or 1, int64 (n,).
        cfg: Settings; `C` is the inverse strength of the L2 penalty.
        seed: Random state of the solver, below 2**32. L-BFGS draws nothing, so it changes nothing.

    Returns:
        The fitted probe.

    Raises:
        ValueError: If the labels are not of both classes.
    """
    if set(np.unique(y).tolist()) != {0, 1}:
        raise ValueError("a linear probe is trained on both classes, 0 and 1")
    regression = LogisticRegression(
        C=cfg.C, class_weight="balanced", max_iter=MAX_ITERATIONS, random_state=seed
    )
    pipeline = make_pipeline(StandardScaler(), regression)
    return FittedLinearProbe(pipeline.fit(x.astype(np.float64), y))
