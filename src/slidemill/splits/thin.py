"""Thinned units: the same patients are tested, fewer train.

Few-shot units train on k patients of each class, few-ratio units on a share of the training
patients. Draws are of patients, from the training part with its validation part, which is then
divided anew. In one draw what is smaller is part of what is larger.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from slidemill.errors import CohortError
from slidemill.splits.strata import BoolArray, kept_groups, strata_of
from slidemill.splits.targets import Int64Array, Targets
from slidemill.splits.units import Unit
from slidemill.splits.words import counted

_ENTROPY = 1
"""Keeps the draws apart from the other uses of the seed."""


def shot_name(shots: int) -> str:
    """`sample` of a few-shot unit, such as `5-shot`."""
    return f"{shots}-shot"


def ratio_name(share: float) -> str:
    """`sample` of a few-ratio unit, such as `10%` or `0.5%`."""
    return f"{share * 100:g}%"


def few_shot(
    units: Sequence[Unit],
    patients: Sequence[str],
    targets: Targets,
    shots: Sequence[int],
    *,
    draws: int,
    seed: int,
) -> list[Unit]:
    """Units that train on k patients of each class.

    Args:
        units: The units to thin.
        patients: All patients, ascending.
        targets: Their targets, of a binary or multiclass task.
        shots: Numbers of patients a class, each at least 1.
        draws: Draws of each.
        seed: Seed of the draws, not negative.

    Returns:
        Units by k, draw and then as given; nobody validates.

    Raises:
        CohortError: If the task has no classes, or a class has fewer than k training patients.
    """
    if not shots:
        return []
    if targets.type not in ("binary", "multiclass"):
        raise CohortError(
            f"evaluate.few_shot draws patients of each class, which a {targets.type} task does not "
            "have. Use evaluate.few_ratio for it."
        )
    number_of = {patient: number for number, patient in enumerate(patients)}
    strata = targets.strata()
    classes = range(max(2, len(targets.names)))
    _check_shots(units, number_of, targets, max(shots))
    thinned = []
    for k in shots:
        for draw in range(draws):
            for unit in units:
                rank = _ranks(unit, len(patients), draw, seed)
                pool = _training(unit, number_of)
                ordered = pool[np.argsort(rank[pool])]
                of_class = [ordered[strata[ordered] == code][:k] for code in classes]
                chosen = np.concatenate(of_class)
                thinned.append(_thinned(unit, patients, chosen, shot_name(k), draw))
    return thinned


def few_ratio(
    units: Sequence[Unit],
    patients: Sequence[str],
    targets: Targets,
    shares: Sequence[float],
    *,
    draws: int,
    seed: int,
) -> list[Unit]:
    """Units that train on a share of the training patients, stratified.

    Each class (value of a label, stratum of a survival task, quarter of a regression's values) that
    the training part has keeps a patient, however small the share. The whole (a share of 1) is
    drawn once and keeps its validation part.

    Args:
        units: The units to thin.
        patients: All patients, ascending.
        targets: Their targets.
        shares: Shares above 0, at most 1.
        draws: Draws of each.
        seed: Seed of the draws, not negative.

    Returns:
        Units by share, draw and then as given; nobody validates, but in the whole.
    """
    number_of = {patient: number for number, patient in enumerate(patients)}
    strata, groups = strata_of(targets), kept_groups(targets)
    thinned = []
    for share in shares:
        for draw in range(1 if share >= 1.0 else draws):
            for unit in units:
                if share >= 1.0:
                    thinned.append(replace(unit, sample=ratio_name(share), draw=0))
                    continue
                pool = _training(unit, number_of)
                rank = _ranks(unit, len(patients), draw, seed)
                core, rest = _in_order(pool, rank, strata, groups)
                size = max(len(core), int(np.floor(share * len(pool) + 0.5)))
                chosen = np.concatenate([core, rest])[:size]
                thinned.append(_thinned(unit, patients, chosen, ratio_name(share), draw))
    return thinned


def _in_order(
    pool: Int64Array, rank: Int64Array, strata: Int64Array, groups: BoolArray
) -> tuple[Int64Array, Int64Array]:
    """Patients in an order of which every beginning has the strata in proportion.

    Returns:
        First those that it takes for each group to have one, then all others.
    """
    place = np.empty(len(pool))
    for stratum in np.unique(strata[pool]):
        here = np.flatnonzero(strata[pool] == stratum)
        here = here[np.argsort(rank[pool[here]])]
        place[here] = (np.arange(len(here)) + 0.5) / len(here)
    ordered = pool[np.lexsort((rank[pool], place))]
    covered = np.zeros(groups.shape[1], dtype=np.bool_)
    is_core = np.zeros(len(ordered), dtype=np.bool_)
    for number, patient in enumerate(ordered):
        if (groups[patient] & ~covered).any():
            is_core[number] = True
            covered |= groups[patient]
    return ordered[is_core], ordered[~is_core]


def _ranks(unit: Unit, count: int, draw: int, seed: int) -> Int64Array:
    """Place of every patient in a draw: the same for all samples of it."""
    entropy = np.random.SeedSequence([seed, _ENTROPY, unit.repeat, unit.fold, draw])
    return np.random.default_rng(entropy).permutation(count)


def _training(unit: Unit, number_of: dict[str, int]) -> Int64Array:
    """Numbers of the patients of a unit's training part, validation included, ascending."""
    return np.array(sorted(number_of[p] for p in (*unit.train, *unit.validate)), dtype=np.int64)


def _thinned(
    unit: Unit, patients: Sequence[str], chosen: Int64Array, sample: str, draw: int
) -> Unit:
    train = tuple(sorted(patients[number] for number in chosen))
    return replace(unit, train=train, validate=(), sample=sample, draw=draw)


def _check_shots(
    units: Sequence[Unit], number_of: dict[str, int], targets: Targets, shots: int
) -> None:
    """Refuse more patients a class than some unit has, and say how many there are."""
    names = targets.names if targets.type == "multiclass" else (targets.negative, *targets.names)
    strata = targets.strata()
    fewest = min(
        (int((strata[_training(unit, number_of)] == code).sum()), name, unit.name)
        for unit in units
        for code, name in enumerate(names)
    )
    count, name, where = fewest
    if count < shots:
        todo = f"Lower it to {count}" if count else "Leave evaluate.few_shot empty"
        raise CohortError(
            f"evaluate.few_shot asks for {shots} patients a class, but of {name!r} only "
            f"{counted(count, 'patient')} can train in {where}. {todo}, or add patients."
        )
