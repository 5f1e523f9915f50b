import ctypes
import faulthandler
import os
import signal
import tempfile
import time

import pytest

from slidemill.artifacts import formats
from slidemill.artifacts.folder import StageId
from slidemill.artifacts.manifest import (
    Pace,
    SlideLoop,
    check_failures,
    merge,
    read_manifest,
    tell,
    write_manifest,
)
from slidemill.artifacts.parquet import read_footer, write_parquet
from slidemill.errors import ArtifactError, CohortError, SlideCode, SlideError

COHORT = StageId("cohort", "c", formats.COHORT, 1, {})
STAGE = StageId("tiles", "t", formats.COORDINATES, 1, {}, (COHORT,))
EMPTY = {"x": [], "y": []}


def slides(*ids, failed=()):
    return [
        {
            "slide_id": name,
            "path": f"/{name}.svs",
            "status": "failed" if name in failed else "ok",
            "failed_stage": "cohort" if name in failed else None,
            "error_code": "unreadable" if name in failed else None,
            "message": "torn" if name in failed else None,
            "item_digest": f"digest of {name}",
        }
        for name in ids
    ]


def another(rows, name):
    return [row | {"item_digest": "another"} if row["slide_id"] == name else row for row in rows]


def column(rows, name):
    return [row[name] for row in rows]


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
        write_parquet(task.path, EMPTY, formats.COORDINATES, task.stamp)
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
    assert worker.done == ["a"]
    assert column(frame, "status") == ["ok", "failed", "failed"]
    assert column(frame, "error_code")[1:] == ["no-tissue", "unreadable"]
    assert column(frame, "failed_stage")[1:] == ["tiles", "cohort"]
    assert frame[2]["message"] == "torn"
    write_manifest(tmp_path / "m.parquet", frame, STAGE)
    assert read_manifest(tmp_path / "m.parquet")["slide_id"].tolist() == ["a", "b", "c"]


def test_finished_slides_are_not_computed_again(tmp_path):
    first, second = Worker(), Worker()
    before = loop(tmp_path, first).run(slides("a", "b"), slides("a", "b"), COHORT)
    after = loop(tmp_path, second).run(slides("a", "b", "c"), slides("a", "b", "c"), COHORT)
    assert (first.done, second.done) == (["a", "b"], ["c"])
    assert column(after, "reused") == [True, True, False]
    assert column(after, "sha256")[:2] == column(before, "sha256")
    assert column(after, "count") == [7, 7, 7]


def test_a_changed_input_or_a_damaged_result_is_computed_again(tmp_path):
    loop(tmp_path, Worker()).run(slides("a", "b"), slides("a", "b"), COHORT)
    changed = another(slides("a", "b"), "a")
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
    changed = another(slides("a"), "a")
    loop(tmp_path, Worker(bad=("a",))).run(changed, changed, COHORT)
    assert not (STAGE.folder(tmp_path) / "slides" / "a.parquet").exists()


def test_a_bug_is_no_failed_slide(tmp_path):
    with pytest.raises(RuntimeError, match="a bug"):
        loop(tmp_path, Worker(broken=("a",))).run(slides("a"), slides("a"), COHORT)


def test_too_many_failures_stop_the_run_with_their_reasons(tmp_path):
    frame = slides("a", "b", "c", "d", "e", failed=("c", "d", "e"))
    check_failures(frame, 0.6)
    with pytest.raises(CohortError, match=r"3 of 5 slides failed.*c \(cohort, unreadable\): torn"):
        try:
            check_failures(frame, 0.3)
        except CohortError as error:
            raise CohortError(str(error).replace("\n", " ")) from None


def test_every_slide_to_look_at_is_said_in_a_line(caplog):
    rows = slides("a", "b", "c", "d", failed=("b", "d"))
    tell([row | {"remark": "two scenes" if row["slide_id"] == "c" else None} for row in rows])
    said = [record.message.split(":")[0] for record in caplog.records]
    assert said == ["b (cohort, unreadable)", "c", "d (cohort, unreadable)"]


@pytest.mark.parametrize(
    ("count", "failed", "share", "stops"),
    [(15, 2, 0.02, False), (15, 3, 0.02, True), (2, 2, 0.5, True), (15, 1, 0.0, True)],
)
def test_two_failed_slides_are_spared_but_not_all_that_there_are(count, failed, share, stops):
    names = [f"s{number}" for number in range(count)]
    frame = slides(*names, failed=tuple(names[:failed]))
    if stops:
        with pytest.raises(CohortError):
            check_failures(frame, share)
    else:
        check_failures(frame, share)


def test_merging_keeps_the_sheets_order_and_refuses_other_slides():
    joined = merge([slides("c"), slides("a", "b")], ["a", "b", "c"])
    assert column(joined, "slide_id") == ["a", "b", "c"]
    with pytest.raises(ArtifactError, match="do not hold the slides"):
        merge([slides("a")], ["a", "b"])


def crash(task):
    if task.slide_id == "b":
        faulthandler.disable()  # pytest's would fill the screen
        ctypes.string_at(0)
    if task.slide_id == "c":
        time.sleep(600)
    if task.slide_id == "d":
        raise SlideError(SlideCode.NO_TISSUE, "bare glass")
    assert task.threads == 1
    write_parquet(task.path, EMPTY, formats.COORDINATES, task.stamp)
    return 7


def test_side_by_side_a_crash_and_a_hang_are_failed_rows_in_the_sheets_order(tmp_path):
    def read_stamp(path):
        return read_footer(path) | {"count": 7}

    pace = Pace(cpus=2, seconds=2.0)
    frame = SlideLoop(
        STAGE, tmp_path, ".parquet", crash, read_stamp, pace=pace, failed_in="tissue"
    ).run(slides(*"abcdef", failed=("f",)), slides(*"abcdef", failed=("f",)), COHORT)
    assert column(frame, "slide_id") == list("abcdef")
    assert column(frame, "error_code")[1:4] == ["crashed", "timed-out", "no-tissue"]
    assert column(frame, "failed_stage")[1:4] == ["tissue"] * 3
    assert column(frame, "status") == ["ok", "failed", "failed", "failed", "ok", "failed"]
    assert "/b.svs" in frame[1]["message"]
    assert "slide_seconds" in frame[2]["message"]


def read_seven(path):
    return read_footer(path) | {"count": 7}


def test_a_slide_that_was_killed_once_has_a_result_and_one_killed_twice_a_row_that_says_what_to_do(
    tmp_path,
):
    def compute(task):
        tried = tmp_path / f"tried-{task.slide_id}"
        again = tried.exists()
        tried.touch()
        if task.slide_id == "b" or (task.slide_id == "a" and not again):
            os.kill(os.getpid(), signal.SIGKILL)
        if task.slide_id == "c":
            raise MemoryError("no memory for a tile")
        write_parquet(task.path, EMPTY, formats.COORDINATES, task.stamp)
        return 7

    loop = SlideLoop(STAGE, tmp_path, ".parquet", compute, read_seven, pace=Pace(cpus=2))
    frame = loop.run(slides(*"abcd"), slides(*"abcd"), COHORT)
    assert column(frame, "slide_id") == list("abcd")
    assert column(frame, "status") == ["ok", "failed", "failed", "ok"]
    assert column(frame, "error_code")[1:3] == ["crashed", "out-of-memory"]
    assert "twice" in frame[1]["message"]
    assert all("failed --retry" in row["message"] for row in frame[1:3])
    assert "no memory for a tile" in frame[2]["message"]


def test_too_little_memory_in_the_jobs_own_process_fails_the_job(tmp_path):
    def compute(task):
        raise MemoryError

    loop = SlideLoop(STAGE, tmp_path, ".parquet", compute, read_seven)
    with pytest.raises(MemoryError):
        loop.run(slides("a"), slides("a"), COHORT)


def test_copies_of_slides_go_with_the_job_also_those_of_children_that_were_killed(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()

    def compute(task):
        (task.scratch / task.slide_id).mkdir(exist_ok=True)
        if task.slide_id == "a":
            os.kill(os.getpid(), signal.SIGKILL)
        write_parquet(task.path, EMPTY, formats.COORDINATES, task.stamp)
        return len(list((tmp_path / "scratch").iterdir()))

    pace = Pace(cpus=2, stage_slides=True)
    loop = SlideLoop(STAGE, tmp_path, ".parquet", compute, read_seven, pace=pace)
    frame = loop.run(slides("a", "b"), slides("a", "b"), COHORT)
    assert column(frame, "status") == ["failed", "ok"]
    assert frame[1]["count"] == 1
    assert list((tmp_path / "scratch").iterdir()) == []


def test_cpus_that_slides_leave_over_go_to_their_threads(tmp_path):
    def compute(task):
        write_parquet(task.path, EMPTY, formats.COORDINATES, task.stamp)
        return task.threads

    loop = SlideLoop(STAGE, tmp_path, ".parquet", compute, read_footer, pace=Pace(cpus=8))
    found = loop.run(slides("a", "b"), slides("a", "b"), COHORT)
    assert column(found, "count") == [4, 4]


def test_files_beside_a_slide_are_part_of_its_digest(tmp_path):
    def done_with(digest):
        worker = Worker()
        loop = SlideLoop(
            STAGE, tmp_path, ".parquet", worker, lambda path: read_footer(path) | {"count": 7},
            inputs=lambda facts: {"tissue-file": digest},
        )  # fmt: skip
        loop.run(slides("a"), slides("a"), COHORT)
        return worker.done

    assert [done_with(d) for d in ("1", "1", "2")] == [["a"], [], ["a"]]
