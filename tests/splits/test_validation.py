import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidemill.splits.strata import kept_groups, strata_of
from slidemill.splits.units import Unit
from slidemill.splits.validation import with_validation
from splits.cohorts import KINDS, names, some_targets


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.integers(2, 60), st.floats(0.05, 0.45), st.integers(0, 1000))
def test_a_stratified_share_validates_and_every_class_still_trains(kind, size, share, seed) -> None:
    patients, targets = names(70), some_targets(kind, 70, seed)
    chosen = np.sort(np.random.default_rng(seed).permutation(70)[:size])
    unit = Unit(1, 2, tuple(patients[i] for i in chosen), (), patients[:1])
    strata, groups = strata_of(targets), kept_groups(targets)
    made = with_validation(unit, patients, strata, share, seed, groups)
    assert made == with_validation(unit, patients, strata, share, seed, groups)
    assert tuple(sorted(made.train + made.validate)) == unit.train
    assert (made.validate, made.train) == (tuple(sorted(made.validate)), tuple(sorted(made.train)))
    assert made.train
    assert len(made.validate) <= np.floor(share * size + 0.5)
    trains = [patients.index(patient) for patient in made.train]
    assert (groups[trains].any(axis=0) == groups[chosen].any(axis=0)).all()
    if kind == "binary" and size >= 20:
        assert len(made.validate) == np.floor(share * size + 0.5)
        validates = strata[[patients.index(patient) for patient in made.validate]]
        for code in (0, 1):
            assert abs((validates == code).sum() - share * (strata[chosen] == code).sum()) < 1.0


def test_a_given_validation_part_stays() -> None:
    unit = Unit(0, 0, ("a", "b"), ("c",), ("d",))
    assert with_validation(unit, tuple("abcd"), np.zeros(4, np.int64), 0.4, 0) is unit


@pytest.mark.parametrize("strata", [[0, 1], [0, 0]])
def test_a_unit_too_small_gets_none(strata) -> None:
    unit = Unit(0, 0, ("a", "b"), (), ("c",))
    made = with_validation(unit, tuple("abc"), np.array([*strata, 0]), 0.2, 0)
    assert made == unit


def test_a_class_of_one_patient_keeps_it() -> None:
    patients = names(11)
    unit = Unit(0, 0, patients, (), ("x",))
    strata = np.array([1] + [0] * 10)
    for seed in range(30):
        made = with_validation(unit, patients, strata, 0.49, seed)
        assert "p000" in made.train
        assert len(made.validate) == 5


def test_the_largest_remainders_are_rounded_up() -> None:
    patients = names(10)
    strata = np.array([0] * 7 + [1] * 3)
    made = with_validation(Unit(0, 0, patients, (), ("x",)), patients, strata, 0.2, 0)
    assert [patient >= "p007" for patient in made.validate] == [False, True]


def test_folds_repetitions_and_draws_differ() -> None:
    patients = names(40)
    strata = np.arange(40) % 2
    parts = {
        with_validation(Unit(*key, patients, (), ("x",)), patients, strata, 0.2, seed).validate
        for key in ((0, 0), (0, 1), (1, 0))
        for seed in (0, 1)
    }
    assert len(parts) == 6
