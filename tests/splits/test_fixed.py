import pytest

from slidemill.errors import CohortError, LeakError, SheetError
from slidemill.splits.fixed import fixed_units
from slidemill.splits.units import Unit
from splits.cohorts import cohort


def _units(patients, split, repeats=1, labelled=None):
    table = cohort(patients, split=split)
    rows = table if labelled is None else table[[i in labelled for i in range(len(table))]]
    return fixed_units(table, rows, repeats=repeats)


def test_the_sheet_says_who_trains_validates_and_is_tested() -> None:
    patients = ["d", "a", "a", "b", "c", "e", "f", "g"]
    split = ["TEST", "train", "Train", "val", "Valid", "validate", "pretrain", None]
    units = _units(patients, split, repeats=2)
    assert units == [Unit(repeat, 0, ("a",), ("b", "c", "e"), ("d",)) for repeat in (0, 1)]


def test_rows_without_a_label_are_not_used() -> None:
    assert _units("abc", ["train", "train", "test"], labelled={0, 2})[0].train == ("a",)


@pytest.mark.parametrize(
    "pair", [("train", "test"), ("train", "val"), ("valid", "test"), ("pretrain", "test")]
)
def test_a_patient_in_two_parts_is_a_leak(pair) -> None:
    with pytest.raises(LeakError, match=r"1 patient in the sheet's split as both .*: x"):
        _units(["x", "x", "a", "b"], [*pair, "train", "test"])


def test_pretraining_on_what_trains_is_none() -> None:
    units = _units(["x", "x", "b"], ["pretrain", "train", "test"])
    assert units == [Unit(0, 0, ("x",), (), ("b",))]


@pytest.mark.parametrize(
    ("split", "said"),
    [
        (["train", "train", "val"], "part 'test': the column split has 'train', 'val'"),
        (["test", "test", None], "part 'train': the column split has 'test'"),
        ([None, None, ""], "part 'train': the column split has no value"),
    ],
)
def test_nobody_to_train_or_test_is_refused(split, said) -> None:
    with pytest.raises(CohortError, match=said):
        _units("abc", split)


def test_values_that_mean_nothing_are_refused_at_once() -> None:
    with pytest.raises(SheetError) as caught:
        _units("abcde", ["train", "tset", "holdout", "tset", "test"])
    assert [problem.what for problem in caught.value.problems] == [
        "'holdout', on 1 slide, is no part",
        "'tset', on 2 slides, is no part",
    ]
