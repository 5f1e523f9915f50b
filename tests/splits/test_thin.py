from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidemill.errors import CohortError
from slidemill.splits.k_fold import k_fold_units
from slidemill.splits.strata import kept_groups
from slidemill.splits.thin import few_ratio, few_shot, ratio_name, shot_name
from splits.cohorts import KINDS, names, some_targets

SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)


def _of(patients, unit):
    return [patients.index(patient) for patient in (*unit.train, *unit.validate)]


def test_samples_are_named_by_their_size() -> None:
    assert [ratio_name(share) for share in (0.005, 0.01, 0.07, 0.29, 1.0)] == [
        "0.5%", "1%", "7%", "29%", "100%",
    ]  # fmt: skip
    assert shot_name(5) == "5-shot"


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["binary", "multiclass"]), st.integers(0, 1000))
def test_shots_are_k_of_each_class_from_the_training_part_and_nested(kind, seed) -> None:
    patients, targets = names(48), some_targets(kind, 48, seed)
    units = k_fold_units(patients, targets, folds=3, repeats=2, seed=seed)
    units[0] = replace(units[0], train=units[0].train[5:], validate=units[0].train[:5])
    thinned = few_shot(units, patients, targets, [1, 4], draws=3, seed=seed)
    assert len(thinned) == 2 * 3 * 6
    assert len({unit.key for unit in thinned}) == len(thinned)
    full = {unit.key[2:]: unit for unit in units}
    by_key = {unit.key: set(unit.train) for unit in thinned}
    for unit in thinned:
        whole = full[unit.key[2:]]
        assert unit.test == whole.test
        assert unit.validate == ()
        assert set(unit.train) <= set(whole.train) | set(whole.validate)
        counts = np.bincount(targets.strata()[_of(patients, unit)])
        assert set(counts.tolist()) == {int(unit.sample.removesuffix("-shot"))}
        assert by_key["1-shot", *unit.key[1:]] <= by_key["4-shot", *unit.key[1:]]
    assert thinned == few_shot(units, patients, targets, [1, 4], draws=3, seed=seed)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 1000))
def test_shares_are_nested_stratified_and_keep_every_class(kind, seed) -> None:
    patients, targets = names(90), some_targets(kind, 90, seed)
    units = k_fold_units(patients, targets, folds=3, repeats=1, seed=seed)
    thinned = few_ratio(units, patients, targets, SHARES, draws=4, seed=seed)
    assert len(thinned) == 3 * (4 * 5 + 1)
    groups = kept_groups(targets)
    full = {unit.key[2:]: unit for unit in units}
    by_key = {unit.key: set(unit.train) for unit in thinned}
    for unit in thinned:
        whole = full[unit.key[2:]]
        assert unit.test == whole.test
        assert set(unit.train) <= set(whole.train)
        share = SHARES[[ratio_name(one) for one in SHARES].index(unit.sample)]
        rows = _of(patients, unit)
        assert (groups[rows].any(axis=0) == groups[_of(patients, whole)].any(axis=0)).all()
        wanted = int(np.floor(share * len(whole.train) + 0.5))
        assert len(rows) == wanted or wanted < len(rows) <= groups.shape[1]
        if kind == "binary" and share >= 0.1:
            positive = targets.values[rows, 0].sum()
            assert abs(positive - share * targets.values[_of(patients, whole), 0].sum()) <= 1.0
        if share < 1.0:
            larger = next(one for one in SHARES if one > share)
            draw = unit.draw if larger < 1.0 else 0
            key = (ratio_name(larger), draw, *unit.key[2:])
            assert by_key[unit.key] <= by_key[key]


def test_draws_repetitions_and_folds_differ() -> None:
    patients, targets = names(90), some_targets("binary", 90)
    units = k_fold_units(patients, targets, folds=2, repeats=1, seed=0)
    one = few_ratio(units, patients, targets, [0.25], draws=3, seed=0)
    assert len({unit.train for unit in one}) == len(one) == 6
    other = few_ratio(units, patients, targets, [0.25], draws=3, seed=1)
    assert not {unit.train for unit in one} & {unit.train for unit in other}


def test_the_whole_is_drawn_once_and_keeps_its_validation_part() -> None:
    patients, targets = names(30), some_targets("binary", 30)
    unit = k_fold_units(patients, targets, folds=2, repeats=1, seed=0)[0]
    unit = replace(unit, train=unit.train[3:], validate=unit.train[:3])
    whole = few_ratio([unit], patients, targets, [1.0], draws=5, seed=0)
    assert whole == [replace(unit, sample="100%")]


def test_too_many_shots_are_refused_with_the_largest_number_that_works() -> None:
    patients, targets = names(30), some_targets("multiclass", 30)
    units = k_fold_units(patients, targets, folds=3, repeats=1, seed=0)
    with pytest.raises(CohortError, match="asks for 9 patients a class") as caught:
        few_shot(units, patients, targets, [1, 9], draws=1, seed=0)
    works = int(str(caught.value).split("Lower it to ")[1].split(",")[0])
    assert few_shot(units, patients, targets, [works], draws=1, seed=0)
    with pytest.raises(CohortError):
        few_shot(units, patients, targets, [works + 1], draws=1, seed=0)


@pytest.mark.parametrize("kind", ["multilabel", "regression", "survival"])
def test_shots_of_tasks_without_classes_are_refused(kind) -> None:
    patients, targets = names(40), some_targets(kind, 40)
    units = k_fold_units(patients, targets, folds=2, repeats=1, seed=0)
    with pytest.raises(CohortError, match=f"a {kind} task"):
        few_shot(units, patients, targets, [1], draws=1, seed=0)
    assert few_shot(units, patients, targets, [], draws=1, seed=0) == []
