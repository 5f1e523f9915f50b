import json

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidemill.artifacts.formats import SPLITS
from slidemill.artifacts.parquet import write_parquet
from slidemill.artifacts.provenance import Stamp
from slidemill.errors import LeakError, SheetError
from slidemill.splits.checks import check_units
from slidemill.splits.document import read_json, to_json
from slidemill.splits.given import read_given, read_units
from slidemill.splits.stage import splits_table
from slidemill.splits.units import Unit

UNITS = [
    Unit(0, 0, ("a", "b"), ("c",), ("d",)),
    Unit(0, 1, ("c", "d"), (), ("a", "b")),
    Unit(0, 0, ("a",), (), ("d",), "5-shot", 2),
]
PEOPLE = ("a", "b", "c", "d")


@st.composite
def many_units(draw):
    """Units with ids of any text, each patient in one part."""
    ids = draw(st.sets(st.text(min_size=1, max_size=6), min_size=3, max_size=9))
    keys = draw(
        st.lists(
            st.tuples(st.sampled_from(["all", "5-shot", "0.5%"]), *[st.integers(0, 3)] * 3),
            unique=True, min_size=1, max_size=4,
        )
    )  # fmt: skip
    units = []
    for sample, number, repeat, fold in keys:
        order = draw(st.permutations(sorted(ids)))
        first, second = sorted(
            draw(st.tuples(st.integers(1, len(ids) - 1), st.integers(1, len(ids) - 1)))
        )
        parts = (
            tuple(sorted(part)) for part in (order[:first], order[first:second], order[second:])
        )
        train, validate, test = parts
        units.append(Unit(repeat, fold, train, validate, test, sample, number))
    return units


@settings(max_examples=50, deadline=None)
@given(many_units(), st.text(min_size=1, max_size=5))
def test_documents_and_tables_round_trip_exactly(tmp_path_factory, units, name) -> None:
    path = tmp_path_factory.getbasetemp() / "splits.json"
    text = to_json(units, name, "k-fold", 3)
    path.write_text(text, encoding="utf-8")
    found = [unit.to_unit() for unit in read_json(path).units]
    assert found == units
    assert to_json(found, name, "k-fold", 3) == text
    everyone = {p for unit in units for p in (*unit.train, *unit.validate, *unit.test)}
    assert read_given(path, name, everyone) == units
    table = splits_table(units, name, "k-fold", dict.fromkeys(everyone, "x"))
    assert read_units(pd.DataFrame(table)) == units


def test_a_document_reads_well(tmp_path) -> None:
    assert to_json(UNITS[:1], "grade", "k-fold", 0) == (
        """{
  "format": "slidemill-splits",
  "version": 1,
  "task": "grade",
  "protocol": "k-fold",
  "seed": 0,
  "units": [
    {
      "sample": "all", "draw": 0, "repeat": 0, "fold": 0,
      "train": ["a", "b"],
      "validate": ["c"],
      "test": ["d"]
    }
  ]
}
"""
    )


def _document(**changes):
    return json.loads(to_json(UNITS, "grade", "k-fold", 0)) | changes


def _write(tmp_path, document):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(document))
    return path


def test_all_faults_of_a_document_are_reported_at_once(tmp_path) -> None:
    document = _document(version=9, extra=1)
    document["units"][0] |= {"fold": -1, "test": []}
    document["units"][1] |= {"train": ["c", "c"], "draw": "0"}
    del document["units"][2]["repeat"]
    with pytest.raises(SheetError) as caught:
        read_json(_write(tmp_path, document))
    assert {problem.where for problem in caught.value.problems} == {
        "version", "extra", "units.0.fold", "units.0.test", "units.1.train", "units.1.draw",
        "units.2.repeat",
    }  # fmt: skip


def test_documents_of_others_are_refused(tmp_path) -> None:
    path = _write(tmp_path, _document())
    assert read_given(path, "grade", PEOPLE) == UNITS
    with pytest.raises(SheetError, match="of the task 'grade', not of 'site'"):
        read_given(path, "site", PEOPLE)
    with pytest.raises(SheetError, match="there are no units"):
        read_given(_write(tmp_path, _document(units=[])), "grade", PEOPLE)
    path.write_text("{")
    with pytest.raises(SheetError, match="not valid JSON"):
        read_given(path, "grade", PEOPLE)
    path.write_text("[]")
    with pytest.raises(SheetError, match="the document"):
        read_given(path, "grade", PEOPLE)
    with pytest.raises(SheetError, match="units are there twice: 'repeat 0, fold 0'"):
        read_given(
            _write(tmp_path, _document(units=[_document()["units"][0]] * 2)), "grade", PEOPLE
        )


def test_patients_without_a_label_are_passed_over(tmp_path) -> None:
    path = _write(tmp_path, _document())
    assert read_given(path, "grade", {"a", "c", "d"})[:2] == [
        Unit(0, 0, ("a",), ("c",), ("d",)),
        Unit(0, 1, ("c", "d"), (), ("a",)),
    ]


FOLDS = pd.DataFrame(
    {
        "task": ["t"] * 6 + ["other"],
        "repeat": [0, 0, 0, 1, 1, 1, 0],
        "fold": [0, 1, 1, 0, 0, 1, 0],
        "patient_id": ["007", "b", "NA", "007", "b", "NA", "007"],
    }
)
EXPECTED = [
    Unit(0, 0, ("NA", "b"), (), ("007",)),
    Unit(0, 1, ("007",), (), ("NA", "b")),
    Unit(1, 0, ("NA",), (), ("007", "b")),
    Unit(1, 1, ("007", "b"), (), ("NA",)),
]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_of_tested_patients_trains_on_the_others(tmp_path, suffix) -> None:
    path = tmp_path / f"folds{suffix}"
    FOLDS.to_csv(path, index=False) if suffix == ".csv" else FOLDS.to_parquet(path)
    assert read_given(path, "t", {"007", "b", "NA"}) == EXPECTED
    with pytest.raises(SheetError, match="no row is of the task 'x'"):
        read_given(path, "x", {"007"})


def test_parquet_of_other_types_is_read_as_well(tmp_path) -> None:
    frame = FOLDS.assign(fold=FOLDS["fold"].astype(float), patient_id=[7, 8, 9, 7, 8, 9, 7])
    frame.to_parquet(tmp_path / "folds.parquet")
    assert read_given(tmp_path / "folds.parquet", "t", "789")[1] == Unit(
        0, 1, ("7",), (), ("8", "9")
    )


def test_artifacts_of_both_versions_are_read(shared_archive, tmp_path) -> None:
    path = tmp_path / "splits.parquet"
    table = splits_table(UNITS, "grade", "k-fold", dict.fromkeys(PEOPLE, "x"))
    write_parquet(path, table, SPLITS, Stamp(digest="d", item_digest="d"))
    assert read_given(path, "grade", PEOPLE) == UNITS
    old = pd.read_parquet(shared_archive)
    task = str(old["task"].iloc[0])
    units = read_given(shared_archive, task, set(old["patient_id"]))
    rows = old[old["task"] == task]
    assert {(u.repeat, u.fold, p) for u in units for p in u.test} == set(
        zip(rows["repeat"], rows["fold"], rows["patient_id"], strict=True)
    )


@pytest.fixture
def shared_archive(request):
    """A table that the first release wrote."""
    return request.config.rootpath / "tests" / "archives" / "splits-v1.parquet"


def test_a_csv_with_parts_says_everything(tmp_path) -> None:
    path = tmp_path / "splits.csv"
    table = splits_table(UNITS, "grade", "k-fold", dict.fromkeys(PEOPLE, "x"))
    frame = pd.DataFrame(table)
    frame.to_csv(path, index=False)
    assert read_given(path, "grade", PEOPLE) == UNITS
    frame[["task", "repeat", "fold", "patient_id", "part"]].iloc[:4].to_csv(path, index=False)
    assert read_given(path, "grade", PEOPLE) == UNITS[:1]


def test_all_faults_of_a_table_are_reported_at_once(tmp_path) -> None:
    path = tmp_path / "splits.csv"
    path.write_text(
        "task,repeat,fold,patient_id,part\nt,0,0,a,train\nt,x,-1,b,holdout\nt,0,0.5,,test\n"
    )
    with pytest.raises(SheetError) as caught:
        read_given(path, "t", "ab")
    assert [problem.where for problem in caught.value.problems] == [
        "row 3, column repeat",
        "row 3, column fold",
        "row 4, column fold",
        "row 4, column patient_id",
        "row 3, column part",
    ]
    path.write_text("task,fold\nt,0\n")
    with pytest.raises(SheetError, match="repeat is missing"):
        read_given(path, "t", "ab")


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x.json", "x.txt"])
def test_files_that_are_none_are_refused(tmp_path, name) -> None:
    path = tmp_path / name
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SheetError, match=name):
        read_given(path, "t", "ab")
    path.write_bytes(b"")
    with pytest.raises(SheetError, match=name):
        read_given(path, "t", "ab")


@pytest.mark.parametrize(
    ("row", "said"),
    [("t,0,1,a", "more than one fold: a"), ("t,0,0,a", "more than once in test: a")],
)
def test_a_patient_with_two_rows_is_a_leak(tmp_path, row, said) -> None:
    path = tmp_path / "folds.csv"
    path.write_text(f"task,repeat,fold,patient_id\nt,0,0,a\nt,0,1,b\nt,0,0,c\n{row}\n")
    with pytest.raises(LeakError, match=said):
        check_units(read_given(path, "t", "abc"), "abc")
    with pytest.raises(LeakError, match="in no fold of repeat 0 of the splits: d"):
        path.write_text("task,repeat,fold,patient_id\nt,0,0,a\nt,0,1,b\n")
        check_units(read_given(path, "t", "abd"), "abd")
