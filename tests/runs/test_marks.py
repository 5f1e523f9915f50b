import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from slidemill.artifacts.folder import StageId
from slidemill.artifacts.formats import TISSUE
from slidemill.runs import marks
from slidemill.runs.marks import mark_name, marks_folder, read_marks, working

STAGE = StageId("tissue", "otsu", TISSUE, 1, {})
NAME = mark_name(STAGE, "0-of-2")


@pytest.fixture
def plan(tmp_path):
    return SimpleNamespace(results=tmp_path)


def path_of(plan):
    return marks_folder(plan.results) / f"{NAME}.json"


def test_a_job_is_marked_while_it_works(plan, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with working(plan, STAGE, "0-of-2"):
        (name,) = (found := read_marks(plan.results))
        mark = found[name]
        assert name == f"tissue-{STAGE.name}-0-of-2"
        assert (mark.host, mark.pid, mark.slurm_job_id) == (platform.node(), os.getpid(), "77")
        assert not mark.lost
        assert "Slurm job 77" in mark.where
    assert read_marks(plan.results) == {}
    assert list(marks_folder(plan.results).iterdir()) == []


def test_the_mark_goes_with_an_exception_which_stays_as_it_is(plan):
    with pytest.raises(KeyError, match="x"), working(plan, STAGE):
        assert list(read_marks(plan.results)) == [mark_name(STAGE)]
        raise KeyError("x")
    assert read_marks(plan.results) == {}


def test_a_mark_is_renewed_and_written_again_if_it_went(plan, monkeypatch):
    monkeypatch.setattr(marks, "RENEW_SECONDS", 0.05)
    with working(plan, STAGE, "0-of-2"):
        os.utime(path_of(plan), (1, 1))
        wait_for(lambda: path_of(plan).stat().st_mtime > time.time() - 60)
        path_of(plan).unlink()
        wait_for(path_of(plan).exists)
    assert not path_of(plan).exists()


def wait_for(is_so):
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_old_mark_is_of_a_lost_job(plan):
    facts = {"host": "elsewhere", "pid": 1, "slurm_job_id": None, "started": "2026-01-01T00:00:00"}
    path_of(plan).parent.mkdir()
    path_of(plan).write_text(json.dumps(facts))
    assert not read_marks(plan.results)[NAME].lost
    long_ago = time.time() - marks.LOST_SECONDS - 1
    os.utime(path_of(plan), (long_ago, long_ago))
    assert read_marks(plan.results)[NAME].lost


def test_a_job_that_was_killed_here_is_lost_at_once(plan):
    code = (
        "import os, signal, sys; from types import SimpleNamespace; from pathlib import Path\n"
        "from runs.test_marks import STAGE; from slidemill.runs.marks import working\n"
        "with working(SimpleNamespace(results=Path(sys.argv[1])), STAGE, '0-of-2'):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    tests = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", code, str(plan.results)],
        env=os.environ | {"PYTHONPATH": tests},
        check=False,
    )
    assert done.returncode == -9
    assert read_marks(plan.results)[NAME].lost


def test_two_jobs_of_one_bucket_do_not_break_each_other(plan, monkeypatch):
    monkeypatch.setattr(marks, "RENEW_SECONDS", 0.05)
    first, second = working(plan, STAGE, "0-of-2"), working(plan, STAGE, "0-of-2")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    first.__enter__()
    monkeypatch.setenv("SLURM_JOB_ID", "2")
    second.__enter__()
    assert read_marks(plan.results)[NAME].slurm_job_id == "2"
    second.__exit__(None, None, None)
    wait_for(lambda: NAME in read_marks(plan.results))
    assert read_marks(plan.results)[NAME].slurm_job_id == "1"
    first.__exit__(None, None, None)
    assert read_marks(plan.results) == {}


def test_only_the_first_process_of_a_training_marks(plan, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with working(plan, STAGE):
        assert read_marks(plan.results) == {}
    monkeypatch.setenv("RANK", "0")
    with working(plan, STAGE):
        assert len(read_marks(plan.results)) == 1


def test_a_mark_that_cannot_be_written_does_not_end_the_job(tmp_path):
    (tmp_path / "running").write_text("no folder")
    with working(SimpleNamespace(results=tmp_path), STAGE):
        pass


def test_children_can_be_forked_and_leave_the_mark_alone(plan):
    context = multiprocessing.get_context("fork")
    with working(plan, STAGE, "0-of-2"):
        child = context.Process(target=json.dumps, args=([1],))
        child.start()
        child.join(timeout=20)
        assert child.exitcode == 0
        assert NAME in read_marks(plan.results)


def test_half_a_mark_is_passed_over(plan):
    path_of(plan).parent.mkdir()
    path_of(plan).write_text("{")
    assert read_marks(plan.results) == {}
