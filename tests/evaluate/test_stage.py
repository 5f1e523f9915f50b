import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from slidemill.errors import ArtifactError, LeakError
from slidemill.evaluate.stage import check_pretraining, check_summary
from slidemill.splits.units import Unit

UNITS = [Unit(0, 0, ("a", "b"), (), ("c", "d")), Unit(0, 1, ("c", "d"), (), ("a", "b"))]


def cell_of(folder: Path, patients: str, **trained: list[str]) -> SimpleNamespace:
    """A cell whose encoders were trained on these patients, by fold; `all` for one encoder."""
    encoders = {}
    for fold, people in trained.items():
        number = -1 if fold == "all" else int(fold.removeprefix("fold"))
        (folder / fold).mkdir()
        (folder / fold / "patients.json").write_text(json.dumps({"patients": people}))

        def where(results: Path, name: str = fold) -> Path:
            return results / name

        encoders[-1 if number < 0 else 0, number] = SimpleNamespace(
            run=SimpleNamespace(patients=patients),
            stage=SimpleNamespace(folder=where, label="dino-on-uni"),
        )
    return SimpleNamespace(pretrain=encoders)


def check(folder: Path, cell: SimpleNamespace) -> None:
    check_pretraining(SimpleNamespace(results=folder), cell, UNITS)  # type: ignore[arg-type]


def test_an_encoder_a_fold_may_see_all_but_its_test_patients(tmp_path: Path) -> None:
    check(tmp_path, cell_of(tmp_path, "per-fold", fold0=["a", "b", "x"], fold1=["c", "d", "x"]))


def test_a_pretraining_patient_in_the_test_fold_fails_the_run(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, "per-fold", fold0=["a", "b"], fold1=["a", "c", "d"])
    with pytest.raises(LeakError, match=r"1 patient .*dino-on-uni.*: a\."):
        check(tmp_path, cell)


def test_an_encoder_of_its_own_cohort_may_see_no_tested_patient(tmp_path: Path) -> None:
    check(tmp_path, cell_of(tmp_path, "split", all=["x", "y"]))
    (tmp_path / "b").mkdir()
    with pytest.raises(LeakError, match="d"):
        check(tmp_path / "b", cell_of(tmp_path / "b", "split", all=["x", "d"]))


def test_an_encoder_of_all_patients_is_let_through(tmp_path: Path) -> None:
    check(tmp_path, cell_of(tmp_path, "all", all=["a", "b", "c", "d"]))


def test_a_summary_of_other_features_is_refused() -> None:
    summary = SimpleNamespace(slide_ids=("s1", "s2"), item_digests=("a", "b"))
    same = SimpleNamespace(slide_ids=["s1", "s2"], item_digests=["a", "b"])
    check_summary(summary, same, "summary-uni")  # type: ignore[arg-type]
    for ids, digests in ((["s1"], ["a"]), (["s1", "s2"], ["a", "c"]), (["s2", "s1"], ["a", "b"])):
        other = SimpleNamespace(slide_ids=ids, item_digests=digests)
        with pytest.raises(ArtifactError, match="evaluate --run summary-uni"):
            check_summary(summary, other, "summary-uni")  # type: ignore[arg-type]
