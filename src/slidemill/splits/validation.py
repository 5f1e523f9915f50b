"""Inner validation: a share of the training patients on which settings are chosen.

Early stopping and the choice of settings look at these patients and never at the tested ones. They
belong to the training part: a model that chooses nothing trains on them as well.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from slidemill.splits.strata import BoolArray, one_hot
from slidemill.splits.targets import Int64Array
from slidemill.splits.units import Unit

_ENTROPY = 2
"""Keeps these draws apart from the other uses of the seed."""


def with_validation(
    unit: Unit,
    patients: Sequence[str],
    strata: Int64Array,
    share: float,
    seed: int,
    groups: BoolArray | None = None,
) -> Unit:
    """Move a stratified share of a unit's training patients to its validation part.

    A unit that has a validation part keeps it. A unit too small for one gets none.

    Args:
        unit: The unit.
        patients: All n patients, ascending.
        strata: The stratum of each, int64 (n,).
        share: Share of the training patients that validates; halves are rounded up.
        seed: Seed of the draw, not negative.
        groups: Groups of patients, bool (n, G), of each of which at least one goes on training;
            None takes the strata.
    """
    if unit.validate:
        return unit
    number_of = {patient: number for number, patient in enumerate(patients)}
    pool = np.array([number_of[patient] for patient in unit.train], dtype=np.int64)
    groups = one_hot(strata) if groups is None else groups
    entropy = np.random.SeedSequence([seed, _ENTROPY, unit.repeat, unit.fold, unit.draw])
    rank = np.random.default_rng(entropy).permutation(len(patients))
    left = groups[pool].sum(axis=0)
    moved: set[int] = set()
    for stratum, quota in _quotas(strata[pool], share):
        members = pool[strata[pool] == stratum]
        for patient in members[np.argsort(rank[members])]:
            if quota == 0:
                break
            own = groups[patient]
            if (left[own] > 1).all():
                left = left - own
                moved.add(int(patient))
                quota -= 1
    train = tuple(p for p in unit.train if number_of[p] not in moved)
    validate = tuple(patients[number] for number in sorted(moved))
    return replace(unit, train=train, validate=validate)


def _quotas(strata: Int64Array, share: float) -> list[tuple[int, int]]:
    """How many of each stratum are drawn: by the largest remainder, in all round(share n)."""
    found, counts = np.unique(strata, return_counts=True)
    quotas = np.floor(counts * share).astype(np.int64)
    short = int(np.floor(share * len(strata) + 0.5)) - int(quotas.sum())
    # Of equal remainders the larger stratum's comes first.
    for place in np.lexsort((-counts, quotas - counts * share))[:short]:
        quotas[place] += 1
    return list(zip(found.tolist(), quotas.tolist(), strict=True))
