import json

import pytest

from slidemill.artifacts.folder import StageId
from slidemill.artifacts.formats import COHORT, SPLITS
from slidemill.artifacts.parquet import read_parquet, write_rows
from slidemill.artifacts.provenance import Stamp
from slidemill.config import EvaluateConfig
from slidemill.errors import CohortError, LeakError
from slidemill.splits.labels import read_targets
from slidemill.splits.protocols import make_units
from slidemill.splits.stage import read_units, run
from splits.cohorts import names, task

STAMP = Stamp(digest="c", item_digest="c")


@pytest.fixture
def cohort_path(tmp_path):
    """A cohort of 24 patients, one slide of which failed and one of which has no label."""
    rows = []
    for number, patient in enumerate(names(24)):
        row = {item.name: None for item in COHORT.fields}
        row |= {
            "slide_id": f"s{number}", "patient_id": patient, "path": "x", "width": 1, "height": 1,
            "levels": 1, "size_bytes": 1, "bounds_x": 0, "bounds_y": 0, "bounds_width": 1,
            "bounds_height": 1, "status": "failed" if number == 3 else "ok",
            "split": ["train", "test"][number % 2], "grade": ["high", "low", "mid"][number % 3],
            "label": None if number == 5 else str(number // 2 % 2),
        }  # fmt: skip
        rows.append(row)
    path = tmp_path / "cohort.parquet"
    write_rows(path, rows, COHORT, STAMP)
    return path


def _run(tmp_path, cohort_path, chosen, config, given=None, number=0):
    stage = StageId("splits", "t", SPLITS, 2, {"number": number})
    return run(stage, tmp_path / "results", cohort_path, chosen, config, given)


LABEL = task(column="label")


def test_the_table_and_the_document_hold_the_units(tmp_path, cohort_path) -> None:
    config = EvaluateConfig(folds=3, few_shot=(2,), draws=2)
    path = _run(tmp_path, cohort_path, LABEL, config)
    table = read_parquet(path, "splits")
    cohort = read_parquet(cohort_path, "cohort")
    units = make_units(cohort, *read_targets(cohort, LABEL), config)
    assert read_units(table) == units
    assert len(units) == 3 + 2 * 3
    assert set(table["protocol"]) == {"k-fold"}
    assert set(table["task"]) == {"t"}
    label_of = dict(zip(cohort["patient_id"], cohort["label"], strict=True))
    assert (table["patient_id"].map(label_of) == table["label"]).all()
    document = json.loads(path.with_suffix(".json").read_text())
    assert (document["task"], document["protocol"], document["seed"]) == ("t", "k-fold", 0)
    assert len(document["units"]) == len(units)
    # The failed slide's patient has a fold; the one without a label has none.
    assert "p003" in set(table["patient_id"])
    assert "p005" not in set(table["patient_id"])


@pytest.mark.parametrize("name", ["splits.json", "splits.parquet"])
def test_what_was_written_can_be_given_back(tmp_path, cohort_path, name) -> None:
    config = EvaluateConfig(folds=3, repeats=2, few_ratio=(0.5, 1.0), draws=2)
    path = _run(tmp_path, cohort_path, LABEL, config)
    other = EvaluateConfig(folds=2, seed=9)
    again = _run(tmp_path, cohort_path, LABEL, other, path.with_name(name), number=1)
    one, two = (read_parquet(each, "splits") for each in (path, again))
    assert set(two["protocol"]) == {"given"}
    assert one.drop(columns="protocol").equals(two.drop(columns="protocol"))


def test_a_split_column_is_written_as_one_fold_a_repeat(tmp_path, cohort_path) -> None:
    config = EvaluateConfig(protocol="split", repeats=2)
    chosen = task("multiclass", column="grade")
    path = _run(tmp_path, cohort_path, chosen, config)
    units = read_units(read_parquet(path, "splits"))
    assert [(unit.repeat, unit.fold, len(unit.test)) for unit in units] == [(0, 0, 12), (1, 0, 12)]
    again = _run(tmp_path, cohort_path, chosen, config, path.with_suffix(".json"), number=1)
    assert read_units(read_parquet(again, "splits")) == units


def test_labels_are_those_that_the_task_sees(tmp_path, cohort_path) -> None:
    config = EvaluateConfig(folds=3)
    plain = read_parquet(_run(tmp_path, cohort_path, LABEL, config), "splits")
    shuffled = task(column="label", shuffle_labels=True)
    permuted = read_parquet(_run(tmp_path, cohort_path, shuffled, config, number=1), "splits")
    one, two = (
        frame[frame["part"] == "test"].set_index("patient_id")["label"].sort_index()
        for frame in (plain, permuted)
    )
    assert one.index.equals(two.index)
    assert (one != two).any()
    assert one.value_counts().to_dict() == two.value_counts().to_dict()


def test_faults_leave_nothing_behind(tmp_path, cohort_path) -> None:
    folds = tmp_path / "folds.csv"
    lines = [f"t,0,{i % 2},{name}" for i, name in enumerate(names(24))]
    folds.write_text("\n".join(["task,repeat,fold,patient_id", *lines, "t,0,1,p000"]))
    with pytest.raises(LeakError, match="p000"):
        _run(tmp_path, cohort_path, LABEL, EvaluateConfig(), folds)
    with pytest.raises(CohortError, match=r"Lower evaluate\.folds"):
        _run(tmp_path, cohort_path, LABEL, EvaluateConfig(folds=20))
    assert not (tmp_path / "results").exists()
