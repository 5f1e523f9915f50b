import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidemill.errors import CohortError, SheetError
from slidemill.splits.labels import (
    label_text,
    missing_counts,
    patient_targets,
    read_targets,
    shuffle_targets,
)
from slidemill.splits.targets import Targets
from splits.cohorts import KINDS, cohort, names, slides_of, some_targets, task

NAN = float("nan")


def test_the_later_class_is_positive_unless_another_is_named() -> None:
    table = cohort("abc", y=["low", "high", "low"])
    _, targets = read_targets(table, task())
    assert (targets.names, targets.negative) == (("low",), "high")
    assert targets.values[:, 0].tolist() == [1, 0, 1]
    _, targets = read_targets(table, task(positive="high"))
    assert (targets.names, targets.negative) == (("high",), "low")
    assert targets.values[:, 0].tolist() == [0, 1, 0]


def test_rows_keep_the_cohorts_order_and_slides_without_a_label_are_left_out() -> None:
    table = cohort("qapp", y=["x", None, "y", ""])
    rows, targets = read_targets(table, task())
    assert rows.to_dict("list") == {"slide_id": ["s0", "s2"], "patient_id": ["q", "p"]}
    assert targets.values[:, 0].tolist() == [0, 1]
    assert missing_counts(table, task()) == {"y": 1}


def test_classes_are_in_the_tasks_order_or_sorted() -> None:
    table = cohort("abcd", y=["G2", "G10", "G2", "G1"])
    _, targets = read_targets(table, task("multiclass"))
    assert targets.names == ("G1", "G10", "G2")
    _, targets = read_targets(table, task("multiclass", classes=("G1", "G2", "G10")))
    assert targets.values[:, 0].tolist() == [1, 2, 1, 0]
    with pytest.raises(SheetError) as caught:
        read_targets(table, task("multiclass", classes=("G1", "G10")))
    assert [problem.where for problem in caught.value.problems] == [
        "row 2, column y, slide s0",
        "row 4, column y, slide s2",
    ]


def test_labels_of_a_patients_other_slides_are_known() -> None:
    table = cohort(
        "aabbcd",
        g1=["1", None, "0", "0", None, "0"],
        g2=["wt", "wt", None, None, None, "mut"],
    )
    multi = task("multilabel", column=("g1", "g2"))
    rows, targets = read_targets(table, multi)
    assert rows["slide_id"].tolist() == ["s0", "s1", "s2", "s3", "s5"]
    expected = [[1, 1], [1, 1], [0, NAN], [0, NAN], [0, 0]]
    np.testing.assert_array_equal(targets.values, expected)
    assert missing_counts(table, multi) == {"g1": 1, "g2": 2}


def test_a_multilabel_tasks_positive_class_holds_where_there_is_one() -> None:
    table = cohort("abc", g1=["mut", "wt", "wt"], g2=["0", "1", "1"])
    columns = ("g1", "g2")
    _, targets = read_targets(table, task("multilabel", column=columns, positive="mut"))
    assert targets.values.tolist() == [[1, 0], [0, 1], [0, 1]]
    with pytest.raises(CohortError, match="'mutated' is in none"):
        read_targets(table, task("multilabel", column=columns, positive="mutated"))


def test_numbers_and_times_are_read_as_such() -> None:
    table = cohort("abc", y=["1.5", "-2e1", None])
    _, targets = read_targets(table, task("regression"))
    assert targets.values[:, 0].tolist() == [1.5, -20.0]
    table = cohort("abcd", y=["3", "0", "5", None], event=["Yes", "FALSE", None, "1"])
    rows, targets = read_targets(table, task("survival"))
    assert targets.values.tolist() == [[3, 1], [0, 0]]
    assert rows["patient_id"].tolist() == ["a", "b"]
    assert targets.names == ("y",)
    assert missing_counts(table, task("survival")) == {"y": 2}


def test_all_faults_of_survival_columns_are_reported_at_once() -> None:
    table = cohort(
        "abcdeff",
        y=["-1", "x", "inf", "3", "-0.5", "3", "4"],
        event=["1", "0", "1", "?", "0", "1", "1"],
    )
    with pytest.raises(SheetError) as caught:
        read_targets(table, task("survival"))
    places = [problem.where for problem in caught.value.problems]
    assert places == [
        "row 2, column y, slide s0",
        "row 3, column y, slide s1",
        "row 4, column y, slide s2",
        "row 6, column y, slide s4",
        "row 5, column event, slide s3",
        "patient f",
    ]


@pytest.mark.parametrize("cell", ["1_000", "1,234.5", "nan", "-inf", "1e999"])
def test_what_is_not_a_finite_number_is_refused(cell: str) -> None:
    with pytest.raises(SheetError, match="row 3, column y, slide s1"):
        read_targets(cohort("ab", y=["1", cell]), task("regression"))


def test_slides_of_a_patient_that_differ_are_reported_per_label() -> None:
    with pytest.raises(SheetError, match="patient a: its slides differ in y: slide s0 has 'x'"):
        read_targets(cohort("aab", y=["x", "y", "y"]), task())
    table = cohort("aab", g1=["1", "0", "0"], g2=["1", "1", "0"])
    with pytest.raises(SheetError) as caught:
        read_targets(table, task("multilabel", column=("g1", "g2")))
    assert len(caught.value.problems) == 1
    assert "g1" in caught.value.problems[0].what
    # The same number in other words is the same label.
    read_targets(cohort("aab", y=["1", "1.0", "2"]), task("regression"))


@pytest.mark.parametrize(
    ("kind", "columns", "said"),
    [
        ("binary", {"y": ["a", "a", None]}, "one class only, 'a'"),
        ("binary", {"y": ["a", "b", "c"]}, "exactly two classes, not 3"),
        ("binary", {"y": [None, "", " "]}, "all 3 slides have no value in 'y'"),
        ("binary", {"z": ["a", "b", "c"]}, "no column 'y'.*'slide_id', 'patient_id', 'z'"),
        ("multiclass", {"y": ["a", "a", "a"]}, "one class only, 'a'"),
        ("regression", {"y": ["2", "2.0", None]}, "is 2 for all 2 slides"),
        ("survival", {"y": ["1", "2", "3"], "event": ["0", "0", "no"]}, "no event"),
        ("survival", {"y": ["1", None, None], "event": [None, "1", "1"]}, "all of 'y', 'event'"),
        ("survival", {"y": ["1", "2", "3"]}, "no column 'event'"),
    ],
)
def test_a_cohort_in_which_nothing_can_be_learned_is_refused(kind, columns, said) -> None:
    with pytest.raises(CohortError, match=said):
        read_targets(cohort("abc", **columns), task(kind))


def test_every_label_of_one_class_is_named() -> None:
    table = cohort("abc", g1=["1", "1", "1"], g2=["0", "1", "0"], g3=["0", "0", "0"])
    with pytest.raises(CohortError, match=r"g1 has one class only.*g3 has one class only"):
        read_targets(table, task("multilabel", column=("g1", "g2", "g3")))
    with pytest.raises(CohortError, match="'x' is not in y"):
        read_targets(cohort("ab", y=["a", "b"]), task(positive="x"))


@pytest.mark.parametrize("kind", KINDS)
def test_patients_come_once_and_ascending_in_any_order_of_rows(kind) -> None:
    patients = names(12)
    targets = some_targets(kind, 12)
    order = np.random.default_rng(0).permutation(24) % 12
    rows = cohort([patients[number] for number in order])
    found, by_patient = patient_targets(rows, targets.take(order))
    assert found == patients
    np.testing.assert_array_equal(by_patient.values, targets.values)
    one = int(order[0])
    other = next(i for i in range(12) if not np.array_equal(targets.values[i], targets.values[one]))
    mixed = [other, *order[1:].tolist()]
    with pytest.raises(ValueError, match=patients[one]):
        patient_targets(rows, targets.take(mixed))


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 99), st.integers(0, 2**32 - 1))
def test_shuffling_keeps_counts_patients_and_what_belongs_together(kind, seed, order_seed) -> None:
    patients = names(20)
    owners = slides_of(patients)
    by_patient = some_targets(kind, 20)
    rows = cohort(owners)
    targets = by_patient.take([patients.index(owner) for owner in owners])
    shuffled = shuffle_targets(rows, targets, seed)
    _, found = patient_targets(rows, shuffled)
    assert sorted(map(str, found.values)) == sorted(map(str, by_patient.values))
    assert (shuffled.names, shuffled.negative) == (targets.names, targets.negative)
    order = np.random.default_rng(order_seed).permutation(len(rows))
    again = shuffle_targets(rows.iloc[order].reset_index(drop=True), targets.take(order), seed)
    np.testing.assert_array_equal(again.values, shuffled.values[order])


def test_shuffling_moves_labels() -> None:
    rows, targets = cohort(names(40)), some_targets("regression", 40)
    moved = shuffle_targets(rows, targets, 0).values != targets.values
    assert moved.mean() > 0.8
    assert not np.array_equal(
        shuffle_targets(rows, targets, 0).values, shuffle_targets(rows, targets, 1).values
    )


def test_shuffling_within_groups_keeps_each_groups_labels() -> None:
    patients = names(30)
    rows, targets = cohort(patients), some_targets("regression", 30)
    group = {patient: number % 3 for number, patient in enumerate(patients[:-6])}
    shuffled = shuffle_targets(rows, targets, 5, within=group)
    of = np.array([group.get(patient, -1) for patient in patients])
    for number in (-1, 0, 1, 2):
        before, after = targets.values[of == number], shuffled.values[of == number]
        assert sorted(before.ravel()) == sorted(after.ravel())
        assert not np.array_equal(before, after)


def test_labels_as_text() -> None:
    column = np.array([[0.0], [1.0]])
    assert label_text(Targets("binary", ("mut",), column, "wt")) == ["wt", "mut"]
    assert label_text(Targets("multiclass", ("x", "y"), column)) == ["x", "y"]
    multi = np.array([[1.0, 0.0, NAN], [NAN, NAN, 1.0]])
    assert label_text(Targets("multilabel", ("a", "b", "c"), multi)) == ["1|0|", "||1"]
    assert label_text(Targets("regression", ("r",), np.array([[0.1], [3.0]]))) == ["0.1", "3"]
    assert label_text(Targets("survival", ("t",), np.array([[12.5, 1.0]]))) == ["12.5|1"]
