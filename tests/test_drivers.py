"""One driver at a time, whatever became of the one before."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from slidemill.drivers import SILENT, end_orphans, hold
from slidemill.errors import UserError
from slidemill.runs.marks import RUN_VARIABLE, is_there, marks_folder

HOLD = "import sys, time; from pathlib import Path; from slidemill.drivers import hold\n"
HOLD += "hold(Path(sys.argv[1])); print('held', flush=True); time.sleep(float(sys.argv[2]))"


def holder(results, seconds: float) -> subprocess.Popen[str]:
    """Another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(results), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_driver_is_told_who_has_the_results(tmp_path):
    with holder(tmp_path, 60) as first:
        with pytest.raises(UserError, match=rf"process {first.pid}, since 20.*slidemill status"):
            hold(tmp_path)
        first.kill()


@pytest.mark.parametrize("killed", [False, True])
def test_the_lock_ends_with_its_process(tmp_path, killed):
    with holder(tmp_path, 60 if killed else 0) as first:
        if killed:
            first.kill()
        first.wait()
    with holder(tmp_path, 0) as second:
        assert second.wait() == 0
    # One that ended by itself has nothing to say to other machines.
    assert (tmp_path / ".lock").read_text() == "{}"


def test_a_driver_of_another_machine_is_heeded_as_long_as_it_lives(tmp_path):
    path = tmp_path / ".lock"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 7, "since": "then"}))
    with pytest.raises(UserError, match=r"on elsewhere, process 7.*It lived \d+ s ago"):
        hold(tmp_path)
    os.utime(path, (time.time() - SILENT - 1,) * 2)
    with holder(tmp_path, 0) as second:
        assert second.wait() == 0


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "results").write_text("a file in its place")
    with pytest.raises(UserError, match=r"nothing can be written there.*run again"):
        hold(tmp_path / "results")


def test_records_of_killed_runs_are_marked_and_others_are_not(tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    facts = {
        "killed": {"started": "a", "status": None},
        "done": {"started": "b", "status": "success"},
        "own": {"started": "c"},
    }
    for name, record in facts.items():
        (runs / f"{name}.json").write_text(json.dumps(record))
    (runs / "torn.json").write_text('{"sta')
    end_orphans(tmp_path, runs / "own.json")
    found = {name: json.loads((runs / f"{name}.json").read_text()) for name in facts}
    assert found == facts | {"killed": {"started": "a", "status": "killed", "finished": None}}


@pytest.mark.parametrize(("run", "ends"), [("killed", True), ("own", False), (None, False)])
def test_processes_of_a_killed_run_are_ended_and_no_others(tmp_path, run, ends):
    runs = tmp_path / "runs"
    runs.mkdir()
    for name in ("killed", "own"):
        (runs / f"{name}.json").write_text(json.dumps({"started": name}))
    marks_folder(tmp_path).mkdir()
    job = subprocess.Popen(["sleep", "60"])
    facts = {"host": os.uname().nodename, "pid": job.pid, "slurm_job_id": None, "started": "then"}
    record = str((runs / f"{run}.json").resolve()) if run else None
    mark = marks_folder(tmp_path) / "tissue-otsu.json"
    mark.write_text(json.dumps(facts | {"run": record}))
    reaper = threading.Thread(target=job.wait)
    reaper.start()
    end_orphans(tmp_path, runs / "own.json")
    assert is_there(job.pid) != ends
    job.kill()
    reaper.join()


def test_a_job_says_of_which_run_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv(RUN_VARIABLE, "runs/x.json")
    from slidemill.runs.marks import _facts

    assert _facts()["run"] == "runs/x.json"
