from pathlib import Path

import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from slidemill.config import load_config, parse_config
from slidemill.errors import ConfigError, SheetError
from slidemill.planner import make_plan
from slidemill.splits.classes import in_order, spellings
from slidemill.splits.labels import order_text, read_targets
from splits.cohorts import cohort, task


def test_numbers_come_by_their_size_and_all_else_by_the_alphabet():
    assert in_order(["10", "9", "6", "9"]) == ["6", "9", "10"]
    assert in_order(["-1", "0.5", "2.5", "10"]) == ["-1", "0.5", "2.5", "10"]
    assert in_order(["10", "9", "x"]) == ["10", "9", "x"]
    assert in_order(["G2", "G10"]) == ["G10", "G2"]


def test_equal_numbers_are_one_class_under_the_tasks_spelling_or_the_shortest():
    assert spellings(["1.0", "1", "2.0", "a"]) == {"1.0": "1"}
    assert spellings(["1.0", "2.0"]) == {}
    assert spellings(["1.0", "2.0"], ("1", "2")) == {"1.0": "1", "2.0": "2"}


def test_the_larger_number_is_positive():
    _, targets = read_targets(cohort("abc", y=["9", "10", "9"]), task())
    assert (targets.names, targets.negative) == (("10",), "9")
    assert order_text(targets) == "positive class '10', negative '9'"


def test_twins_of_classes_are_refused_unless_they_are_numbers_or_both_listed():
    _, targets = read_targets(cohort("abc", y=["1", "1.0", "0"]), task())
    assert targets.values[:, 0].tolist() == [1, 1, 0]
    table = cohort("abcd", y=["High", "high", "Low", "high"])
    with pytest.raises(SheetError, match=r"'High' \(1 slides, first s0\) and 'high' \(2 slides"):
        read_targets(table, task("multiclass"))
    _, targets = read_targets(table, task("multiclass", classes=("Low", "high", "High")))
    assert targets.values[:, 0].tolist() == [2, 1, 0, 1]


def test_a_positive_class_may_be_spelled_in_the_tasks_way():
    _, targets = read_targets(cohort("abc", y=["1.0", "0.0", "1.0"]), task(positive="1"))
    assert (targets.names, targets.negative) == (("1",), "0.0")


BASE = {"cohort": {"sheet": "s.csv"}, "features": {"encoders": ["rgb-mean"]}}


def plan_of(folder, header, rows, **evaluate):
    (folder / "s.csv").write_text("\n".join([header, *rows]) + "\n")
    tasks = {"tasks": [{"name": "t", "column": "y", "type": "multiclass"}]}
    values = BASE | ({"evaluate": tasks | evaluate} if "y" in header else {})
    return make_plan(parse_config(values, "test"), folder)


def test_only_an_order_that_is_new_is_part_of_the_splits_identity(tmp_path):
    header = "slide_id,path,patient_id,y"
    same = plan_of(tmp_path, header, [f"s{i},s{i}.svs,p{i},{i % 3}" for i in range(9)])
    assert "classes" not in same.splits["t"].parameters
    other = plan_of(tmp_path, header, [f"s{i},s{i}.svs,p{i},{i % 3 + 8}" for i in range(9)])
    assert other.splits["t"].parameters["classes"] == {"y": ["8", "9", "10"]}


def test_features_need_no_patients_and_an_evaluation_does(tmp_path):
    rows = [f"s{i},s{i}.svs" for i in range(3)]
    assert len(plan_of(tmp_path, "slide_id,path", rows).sheet.rows) == 3
    with pytest.raises(ConfigError, match="no column patient_id"):
        plan_of(tmp_path, "slide_id,path,y", [f"{row},{len(row)}" for row in rows])


def test_twins_of_sites_are_said_before_anything_runs(tmp_path):
    header = "slide_id,path,patient_id,y,site"
    rows = [f"s{i},s{i}.svs,p{i},{i % 3},{'East' if i else 'east'}" for i in range(9)]
    with pytest.raises(ConfigError, match="look like one site"):
        plan_of(tmp_path, header, rows, site="site")


def case(shared, name):
    folder = shared / "cases" / "sheets"
    if not folder.is_dir():
        pytest.skip("no cases")
    return make_plan(load_config(folder / f"{name}.yaml"), folder)


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("binary-10-9", "positive class '10', negative '9'"),
        ("float-classes", "classes in order '0', '1', '2'"),
        ("gleason", "classes in order '6', '7', '8', '9', '10'"),
        ("na-multiclass", "classes in order 'A', 'B', 'C'"),
    ],
)
def test_orders_of_sheets_as_people_write_them(shared: Path, name, order):
    plan = case(shared, name)
    table = pd.DataFrame(
        [
            {"slide_id": row.slide_id, "patient_id": row.patient_id}
            | {column: row.labels.get(column) for column in plan.sheet.label_columns}
            for row in plan.sheet.rows
        ]
    )
    assert order_text(read_targets(table, plan.config.evaluate.tasks[0])[1]) == order
    missing = [note for note in plan.sheet.notes if note.startswith("missing")]
    wanted = ["missing in subtype: 14 of 42 slides (NA: 14)"] if name == "na-multiclass" else []
    assert missing == wanted


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("case", "'high' .* and 'High' .* look like one class"),
        ("ids-7-7.0", r"'007' \(row 8\) and '7.0' \(row 9\) look like one patient"),
        ("patient-na", "row 2, column patient_id: 'NA' stands for a missing value"),
    ],
)
def test_faults_of_sheets_as_people_write_them(shared: Path, name, said):
    with pytest.raises((ConfigError, SheetError), match=said):
        case(shared, name)


def test_quadratic_kappa_weighs_gleason_sums_by_their_distance():
    cells = [str(6 + i % 5) for i in range(50)]
    # Every fourth is one sum off; in alphabetical order 10 is next to 6, and 9 far from 10.
    guesses = [str(min(int(c) + 1, 10)) if i % 4 == 0 else c for i, c in enumerate(cells)]
    _, targets = read_targets(cohort([f"p{i}" for i in range(50)], y=cells), task("multiclass"))
    true = targets.values[:, 0].astype(int)
    guessed = [targets.names.index(guess) for guess in guesses]
    assert cohen_kappa_score(true, guessed, weights="quadratic") > 0.9
