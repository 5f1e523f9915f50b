import pandas as pd
import pytest

from slidemill.artifacts import formats
from slidemill.artifacts.folder import StageId
from slidemill.artifacts.manifest import (
    SlideLoop,
    check_failures,
    merge,
    read_manifest,
    write_manifest,
)
from slidemill.artifacts.parquet import read_footer, write_parquet
from slidemill.errors import ArtifactError, CohortError, SlideCode, SlideError

COHORT = StageId("cohort", "c", formats.COHORT, 1, {})
STAGE = StageId("tiles", "t", formats.TILES, 1, {}, (COHORT,))
EMPTY = pd.DataFrame(
    {
        "x": pd.Series(dtype="int64"),
        "y": pd.Series(dtype="int64"),
        "tissue_fraction": pd.Series(dtype="float32"),
        "padded_fraction": pd.Series(dtype="float32"),
        "keep": pd.Series(dtype="bool"),
    }
)


def slides(*ids, failed=()):
    return pd.DataFrame(
        {
            "slide_id": list(ids),
            "path": [f"/{i}.svs" for i in ids],
            "status": ["failed" if i in failed else "ok" for i in ids],
            "failed_stage": ["cohort" if i in failed else None for i in ids],
            "error_code": ["unreadable" if i in failed else None for i in ids],
            "message": ["torn" if i in failed else None for i in ids],
            "item_digest": [f"digest of {i}" for i in ids],
        }
    )


class Worker:
    """Computes by writing an empty table; knows which slides it did."""

    def __init__(self, bad=(), broken=()):
        self.done, self.bad, self.broken = [], bad, broken

    def __call__(self, task):
        if task.slide_id in self.bad:
            raise SlideError(SlideCode.NO_TISSUE, "bare glass")
        if task.slide_id in self.broken:
            raise RuntimeError("a bug")
        self.done.append(task.slide_id)
        write_parquet(task.path, EMPTY, formats.TILES, task.stamp)
        return 7


def loop(tmp_path, worker, not_before=0.0):
    def read_stamp(path):
        return read_footer(path) | {"count": 7}

    return SlideLoop(STAGE, tmp_path, ".parquet", worker, read_stamp, not_before)


def test_good_bad_and_carried_slides_each_get_a_row(tmp_path):
    worker = Worker(bad=("b",))
    frame = loop(tmp_path, worker).run(
        slides("a", "b", "c", failed=("c",)), slides("a", "b", "c", failed=("c",)), COHORT
    )
    rows = frame.set_index("slide_id")
    assert worker.done == ["a"]
    assert rows["status"].to_dict() == {"a": "ok", "b": "failed", "c": "failed"}
    assert rows.loc["b", "error_code"] == "no-tissue"
    assert rows.loc["b", "failed_stage"] == "tiles"
    assert rows.loc["c", "failed_stage"] == "cohort"
    assert rows.loc["c", "message"] == "torn"
    write_manifest(tmp_path / "m.parquet", frame, STAGE)
    assert read_manifest(tmp_path / "m.parquet")["slide_id"].tolist() == ["a", "b", "c"]


def test_finished_slides_are_not_computed_again(tmp_path):
    first, second = Worker(), Worker()
    before = loop(tmp_path, first).run(slides("a", "b"), slides("a", "b"), COHORT)
    after = loop(tmp_path, second).run(slides("a", "b", "c"), slides("a", "b", "c"), COHORT)
    assert (first.done, second.done) == (["a", "b"], ["c"])
    assert after["reused"].tolist() == [True, True, False]
    assert after["sha256"].tolist()[:2] == before["sha256"].tolist()
    assert after["count"].tolist() == [7, 7, 7]


def test_a_changed_input_or_a_damaged_result_is_computed_again(tmp_path):
    loop(tmp_path, Worker()).run(slides("a", "b"), slides("a", "b"), COHORT)
    changed = slides("a", "b").replace("digest of a", "another digest")
    worker = Worker()
    loop(tmp_path, worker).run(changed, changed, COHORT)
    assert worker.done == ["a"]
    (STAGE.folder(tmp_path) / "slides" / "b.parquet").write_bytes(b"half a fi")
    worker = Worker()
    loop(tmp_path, worker).run(changed, changed, COHORT)
    assert worker.done == ["b"]


def test_results_from_before_a_recompute_do_not_count(tmp_path):
    loop(tmp_path, Worker()).run(slides("a"), slides("a"), COHORT)
    age = (STAGE.folder(tmp_path) / "slides" / "a.parquet").stat().st_mtime
    worker = Worker()
    loop(tmp_path, worker, not_before=age + 1).run(slides("a"), slides("a"), COHORT)
    assert worker.done == ["a"]


def test_a_slide_that_fails_now_leaves_no_result_of_before(tmp_path):
    loop(tmp_path, Worker()).run(slides("a"), slides("a"), COHORT)
    changed = slides("a").replace("digest of a", "another digest")
    loop(tmp_path, Worker(bad=("a",))).run(changed, changed, COHORT)
    assert not (STAGE.folder(tmp_path) / "slides" / "a.parquet").exists()


def test_a_bug_is_no_failed_slide(tmp_path):
    with pytest.raises(RuntimeError, match="a bug"):
        loop(tmp_path, Worker(broken=("a",))).run(slides("a"), slides("a"), COHORT)


def test_too_many_failures_stop_the_run_with_their_reasons(tmp_path):
    frame = slides("a", "b", "c", failed=("c",))
    check_failures(frame, 0.34, tmp_path)
    with pytest.raises(CohortError, match=r"1 of 3 slides failed.*c \(cohort, unreadable\): torn"):
        try:
            check_failures(frame, 0.3, tmp_path)
        except CohortError as error:
            raise CohortError(str(error).replace("\n", " ")) from None


def test_merging_keeps_the_sheets_order_and_refuses_other_slides():
    joined = merge([slides("c"), slides("a", "b")], ["a", "b", "c"])
    assert joined["slide_id"].tolist() == ["a", "b", "c"]
    with pytest.raises(ArtifactError, match="do not hold the slides"):
        merge([slides("a")], ["a", "b"])
