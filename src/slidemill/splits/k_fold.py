"""k-fold protocol: patients are dealt to folds, stratified by what is to be predicted.

Patients, not slides, are dealt, so that a patient's slides are never both trained on and tested on.
Guarantees that each patient is tested once a repetition and that each class is in every fold
(binary, multiclass); the result depends on patients, targets and seed alone.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedKFold

from slidemill.errors import CohortError
from slidemill.splits.strata import classes_of
from slidemill.splits.targets import EVENT, TIME, Float64Array, Int64Array, Targets
from slidemill.splits.units import Unit
from slidemill.splits.words import counted

MOST_BINS = 4
"""Quantiles of a time or a number by which patients are dealt at most."""


def k_fold_units(
    patients: Sequence[str], targets: Targets, *, folds: int, repeats: int, seed: int
) -> list[Unit]:
    """Deal patients to folds; each fold is tested once by a unit that trains on the others.

    Binary and multiclass tasks are stratified by class, regression by quantiles of the number,
    survival by event and, where there are enough patients, quantiles of the time; multilabel tasks
    by iterative stratification (`deal_labels`).

    Args:
        patients: The patients, ascending, each once.
        targets: Their targets, in the same order.
        folds: Number of folds, at least 2.
        repeats: Repetitions; repetition r is shuffled with seed + r.
        seed: Seed of the shuffles, not negative.

    Returns:
        Units by repetition and fold, without a validation part.

    Raises:
        CohortError: If there are too few patients, of a class or at all, for so many folds.
    """
    _check_sizes(targets, folds)
    names = np.array(patients, dtype=object)
    units = []
    for repeat in range(repeats):
        dealt = _deal(targets, folds, seed + repeat)
        for fold in range(folds):
            train, test = (tuple(names[dealt != fold]), tuple(names[dealt == fold]))
            units.append(Unit(repeat, fold, train, (), test))
    return units


def deal_labels(values: Float64Array, folds: int, seed: int) -> Int64Array:
    """Iterative stratification of several labels.

    Sechidis, Tsoumakas & Vlahavas, "On the Stratification of Multi-Label Data", ECML PKDD 2011,
    algorithm 1, with the presence and the absence of each label as labels of their own. The rarest
    label that is left is dealt first; each of its rows goes to the fold that lacks most rows with
    that label, then to the one that lacks most rows at all, then to one by chance. No fold stays
    empty while there are at least as many rows as folds.

    Args:
        values: float64 (n, V): 1, 0 or nan where a label is missing; a row has one at least.
        folds: Number of folds.
        seed: Seed of the choices by chance.

    Returns:
        The fold of each row, int64 (n,).
    """
    rng = np.random.default_rng(seed)
    has = np.concatenate([values == 1.0, values == 0.0], axis=1)
    wanted = np.tile(has.sum(axis=0) / folds, (folds, 1))
    room = np.full(folds, len(values) / folds)
    fold = np.full(len(values), -1, dtype=np.int64)
    while (left := fold < 0).any():
        counts = has[left].sum(axis=0)
        label = int(np.argmin(np.where(counts > 0, counts, len(values) + 1)))
        for row in rng.permutation(np.flatnonzero(left & has[:, label])):
            best = np.flatnonzero(_is_greatest(wanted[:, label]))
            best = best[_is_greatest(room[best])]
            chosen = int(rng.choice(best))
            fold[row] = chosen
            wanted[chosen, has[row]] -= 1.0
            room[chosen] -= 1.0
    return fold


def _is_greatest(values: Float64Array) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    # Shares of equal counts may differ in the last digit after subtractions.
    return np.asarray(values > values.max() - 1e-9)


def _deal(targets: Targets, folds: int, seed: int) -> Int64Array:
    """The fold of each patient."""
    if targets.type == "multilabel":
        return deal_labels(targets.values, folds, seed)
    strata = _strata(targets, folds)
    fold = np.empty(len(strata), dtype=np.int64)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Fewer events than folds are allowed: what is seen elsewhere is measured over all folds.
        warnings.filterwarnings("ignore", message="The least populated class")
        for number, (_, tested) in enumerate(splitter.split(strata, strata)):
            fold[tested] = number
    return fold


def _strata(targets: Targets, folds: int) -> Int64Array:
    """Strata for dealing: as many quantiles as leave every stratum a patient a fold."""
    values = targets.values
    if targets.type == "regression":
        return _binned(values[:, 0], np.zeros(len(values), np.int64), folds)
    if targets.type == "survival":
        return _binned(values[:, TIME], values[:, EVENT].astype(np.int64), folds)
    return targets.strata()


def _binned(values: Float64Array, groups: Int64Array, folds: int) -> Int64Array:
    """Quantiles of the values of each group; fewer of them until each has `folds` rows."""
    for bins in range(MOST_BINS, 1, -1):
        found = np.zeros(len(values), dtype=np.int64)
        for group in np.unique(groups):
            here = groups == group
            edges = np.quantile(values[here], np.arange(1, bins) / bins)
            found[here] = group * bins + np.searchsorted(edges, values[here], side="left")
        if np.unique(found, return_counts=True)[1].min() >= folds:
            return found
    return groups


def _check_sizes(targets: Targets, folds: int) -> None:
    if len(targets) < folds:
        raise CohortError(
            f"{counted(len(targets), 'patient')} with a label cannot be dealt to {folds} folds. "
            f"{_lower(len(targets))}dd patients."
        )
    counts = {name: int(rows.sum()) for name, rows in classes_of(targets).items()}
    if targets.type in ("binary", "multiclass"):
        _check_classes(counts, folds)
    elif targets.type == "multilabel":
        rare = [f"{name!r} has {count}" for name, count in counts.items() if count < 2]
        if rare:
            raise CohortError(
                "every label takes at least 2 positive and 2 negative patients, one to train on "
                f"and one to test, but {', '.join(rare)}. Leave out these labels, or add patients."
            )
    elif targets.type == "survival":
        seen = counts["event"]
        if seen < 2:
            raise CohortError(
                f"folds take at least 2 patients with an event, one to train on and one to test, "
                f"but there is {seen}. Add patients whose event was seen."
            )
        most = max(seen, len(targets) - seen)
        if most < folds:
            raise CohortError(
                f"{seen} patients with an event and {len(targets) - seen} without are too few for "
                f"{folds} folds. {_lower(most)}dd patients."
            )


def _check_classes(counts: dict[str, int], folds: int) -> None:
    fewest = min(counts.values())
    if fewest >= folds:
        return
    said = ", ".join(f"{name!r} has {count}" for name, count in sorted(counts.items()))
    raise CohortError(
        f"{folds} folds take at least {folds} patients of each class, but {said}. "
        f"{_lower(fewest)}dd patients of the rarer class, or leave the class out."
    )


def _lower(most: int) -> str:
    return f"Lower evaluate.folds to {most}, or a" if most >= 2 else "A"
