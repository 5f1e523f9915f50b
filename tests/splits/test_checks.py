from dataclasses import replace

import numpy as np
import pytest

from slidemill.errors import CohortError, LeakError
from slidemill.splits.checks import check_classes, check_training_patients, check_units
from slidemill.splits.k_fold import k_fold_units
from slidemill.splits.targets import Targets
from slidemill.splits.units import Unit
from splits.cohorts import names, some_targets

PATIENTS = names(12)


def _units(folds=3, repeats=2):
    targets = some_targets("binary", 12)
    return k_fold_units(PATIENTS, targets, folds=folds, repeats=repeats, seed=0)


def test_training_on_a_tested_patient_is_a_leak() -> None:
    check_training_patients(["a", "b"], ["c"], "x")
    with pytest.raises(LeakError, match="b"):
        check_training_patients(["a", "b"], ["b", "c"], "x")


@pytest.mark.parametrize(
    ("one", "other"), [("train", "test"), ("validate", "test"), ("train", "validate")]
)
def test_a_patient_in_two_parts_is_a_leak_with_its_name(one, other) -> None:
    units = _units()
    unit = replace(units[4], train=units[4].train[3:], validate=units[4].train[:3])
    check_units([*units[:4], unit, units[5]], PATIENTS)
    victim = getattr(unit, other)[1]
    leaking = replace(unit, **{one: tuple(sorted({*getattr(unit, one), victim}))})
    with pytest.raises(LeakError, match=rf"repeat 1, fold 1 .*{one} and {other}: {victim}\."):
        check_units([*units[:4], leaking, units[5]], PATIENTS)


def test_a_patient_tested_twice_or_never_is_refused() -> None:
    units = _units(repeats=1)
    moved = units[0].test[0]
    again = replace(
        units[1],
        train=tuple(patient for patient in units[1].train if patient != moved),
        test=(*units[1].test, moved),
    )
    with pytest.raises(LeakError, match=f"more than one fold: {moved}"):
        check_units([units[0], again, units[2]], PATIENTS)
    never = replace(units[0], test=units[0].test[1:])
    with pytest.raises(LeakError, match=f"in no fold of repeat 0 of the splits: {moved}"):
        check_units([never, *units[1:]], PATIENTS)


def test_each_sample_draw_and_repetition_stands_for_itself() -> None:
    units = _units()
    thinned = [replace(unit, sample="10%", draw=draw) for draw in (0, 1) for unit in units]
    check_units([*units, *thinned], PATIENTS)
    with pytest.raises(LeakError, match=r"repeat 1 of the splits \(10% 1\)"):
        check_units([*units, *thinned[:-1]], PATIENTS)


def test_a_fixed_split_may_leave_patients_out() -> None:
    check_units([Unit(0, 0, PATIENTS[:4], (), PATIENTS[6:9])], PATIENTS)


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        (Unit(0, 0, (), ("a",), ("b",)), "trains nobody"),
        (Unit(0, 0, ("a",), (), ()), "tests nobody"),
    ],
)
def test_empty_units_are_refused(unit, said) -> None:
    with pytest.raises(CohortError, match=said):
        check_units([unit], ["a", "b"])


def test_no_units_the_same_twice_and_patients_twice_are_refused() -> None:
    with pytest.raises(CohortError, match="no rows"):
        check_units([], PATIENTS)
    units = _units(repeats=1)
    with pytest.raises(CohortError, match="has a fold twice"):
        check_units([*units, units[0]], PATIENTS)
    doubled = replace(units[0], train=(*units[0].train, units[0].train[0]))
    with pytest.raises(LeakError, match="more than once in train"):
        check_units([doubled, *units[1:]], PATIENTS)


def test_a_training_part_without_a_class_is_refused_with_the_fold() -> None:
    targets = Targets("multiclass", ("x", "y"), np.array([[0.0], [0.0], [1.0], [1.0]]))
    units = [Unit(0, 0, ("a", "b"), (), ("c", "d")), Unit(0, 1, ("c", "d"), (), ("a", "b"))]
    with pytest.raises(CohortError, match=r"'y' is left .* fold 0, which tests 'Mainz'"):
        check_classes(units, tuple("abcd"), targets, {0: "Mainz", 1: "Kiel"})
    both = [Unit(0, 0, ("a", "d"), (), ("b",)), Unit(0, 1, ("a", "b", "d"), (), ("c",))]
    check_classes(both, tuple("abcd"), targets)


def test_classes_in_the_validation_part_count_as_trained() -> None:
    targets = Targets("binary", ("y",), np.array([[0.0], [1.0], [0.0], [1.0]]), "x")
    check_classes([Unit(0, 0, ("a",), ("b",), ("c", "d"))], tuple("abcd"), targets)


def test_every_value_of_every_label_is_needed_for_training() -> None:
    nan = float("nan")
    values = np.array([[1, 0], [0, nan], [1, 1], [0, 0]], float)
    targets = Targets("multilabel", ("g1", "g2"), values)
    check_classes([Unit(0, 0, ("a", "b", "c"), (), ("c", "d"))], tuple("abcd"), targets)
    with pytest.raises(CohortError, match="'g2 positive'"):
        check_classes([Unit(0, 0, ("a", "b"), (), ("c", "d"))], tuple("abcd"), targets)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (Targets("binary", ("y",), np.array([[0.0], [1.0], [1.0], [1.0]]), "x"), "'y' only"),
        (Targets("survival", ("t",), np.array([[1.0, 1.0]] * 2 + [[1.0, 0.0]] * 2)), "no event"),
    ],
)
def test_tested_patients_of_one_class_are_refused(targets, said) -> None:
    with pytest.raises(CohortError, match=said):
        check_classes([Unit(0, 0, ("a", "b"), (), ("c", "d"))], tuple("abcd"), targets)
