"""Strength of an L2 penalty, chosen on inner folds of the training rows.

A strength s is the C of logistic regression: the loss summed over rows, plus ||w||^2 / (2 s). It
means the same in all linear probes, so that a larger s is a weaker penalty.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from slidemill.evaluate.probes.base import Float64Array, Int64Array

STRENGTHS: Float64Array = np.array([float(f"1e{power}") for power in range(-6, 5)])
"""Strengths that are tried, ascending.

Of standardised features the curvature of a summed loss is at most about n D / 4 and seldom below
n / 1000, so for n D up to 4e6 the lowest strength leaves nothing but the intercept, and the highest
leaves the loss as it is.
"""

DEFAULT_STRENGTH = 1.0
"""Where there are too few patients to choose by."""

Fold = tuple[Int64Array, Int64Array]
"""Rows that train and rows that are held out."""


@dataclass(frozen=True)
class Choice:
    """A chosen strength.

    Attributes:
        strength: The strength.
        record: What is to be recorded of it.
    """

    strength: float
    record: Mapping[str, float]


def choose(
    wanted: Literal["inner"] | float,
    folds: Sequence[Fold],
    losses: Callable[[Int64Array, Int64Array], Float64Array],
    suffix: str = "",
) -> Choice:
    """The strength of the lowest loss on held-out rows; the stronger penalty where two are equal.

    Args:
        wanted: `inner`, or the strength itself.
        folds: Inner folds; without any, `DEFAULT_STRENGTH` is taken and recorded with 0 folds.
        losses: Of the rows that train and those held out, the held-out rows' summed loss at each of
            `STRENGTHS`, float64 (11,).
        suffix: Added to the names in the record.
    """
    name = f"strength{suffix}"
    if wanted != "inner":
        return Choice(wanted, {name: wanted})
    strength = DEFAULT_STRENGTH
    if folds:
        total = np.sum([losses(train, held) for train, held in folds], axis=0)
        strength = float(STRENGTHS[np.argmin(total)])
    return Choice(strength, {name: strength, f"inner_folds{suffix}": float(len(folds))})


def deal(strata: Int64Array, patients: Sequence[str], most: int, seed: int) -> list[Fold]:
    """Inner folds: grouped by patient, stratified.

    There are as many as the stratum of the fewest patients has patients, so that each stratum may
    be in each fold, but no more than asked for; none where that is below two. They depend on the
    patients and strata, not on the order of the rows.

    Args:
        strata: Class of each row, int64 (n,).
        patients: Patient of each row.
        most: Folds at most.
        seed: Seed of the shuffle, below 2**32.

    Returns:
        Rows that train and rows held out, int64, of each fold. A fold whose training rows lack a
        stratum (possible where patients have rows of several) is left out.
    """
    names = np.asarray(patients, dtype=np.str_)
    present = np.unique(strata)
    number = min(most, *(len(np.unique(names[strata == stratum])) for stratum in present))
    if number < 2:
        return []
    splitter = StratifiedGroupKFold(number, shuffle=True, random_state=seed)
    folds = splitter.split(names, strata, names)
    return [(a, b) for a, b in folds if len(np.unique(strata[a])) == len(present)]


def deal_patients(patients: Sequence[str], most: int, seed: int) -> list[Fold]:
    """Inner folds: patients dealt at random, for targets that are numbers.

    Args:
        patients: Patient of each row.
        most: Folds at most; no more than patients.
        seed: Seed of the shuffle.

    Returns:
        Rows that train and rows held out, int64, of each fold; none for a single patient.
    """
    names, of_row = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    number = min(most, len(names))
    if number < 2:
        return []
    fold = np.random.default_rng(seed).permutation(len(names))[of_row] % number
    return [(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(number)]
