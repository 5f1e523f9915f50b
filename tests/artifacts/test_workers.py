"""Processes that crash, hang or raise; each is made to happen for real."""

import ctypes
import faulthandler
import mmap
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from slidemill.artifacts import workers
from slidemill.artifacts.workers import Lost, RemoteTraceback, available_cpus, work_apart
from slidemill.errors import ConfigError, Problem, UserError


def work(item):
    kind, value = item
    if kind == "crash":
        faulthandler.disable()  # pytest's would fill the screen
        ctypes.string_at(0)
    if kind == "exit":
        os._exit(value)
    if kind == "sleep":
        time.sleep(value)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind in ("kill-once", "starve-once", "starve"):
        # The file says that it was tried before, and who was at work then.
        before = value.exists()
        value.write_text(f"{os.getpid()} {os.getppid()}")
        if kind == "kill-once" and not before:
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "starve" or not before:
            soft = 2**31
            resource.setrlimit(resource.RLIMIT_AS, (soft, resource.RLIM_INFINITY))
            mmap.mmap(-1, 2**33)
        return "second", os.getpid()
    if kind == "bug":
        raise KeyError(value)
    if kind == "config":
        raise ConfigError("c.yaml", [Problem("tiles", "wrong", "Fix it")])
    return value, os.getpid()


def run(items, processes=2, seconds=30.0):
    found = dict(work_apart(work, items, processes, seconds))
    return [found[number] for number in range(len(items))]


def test_results_keep_to_their_items_and_processes_are_few():
    found = run([("say", number) for number in range(40)], processes=3)
    assert [value for value, _ in found] == list(range(40))
    assert 1 <= len({pid for _, pid in found}) <= 3
    assert os.getpid() not in {pid for _, pid in found}


@pytest.mark.parametrize("processes", [1, 3])
def test_a_crash_costs_its_item_and_no_other(processes):
    items = [("say", 0), ("crash", 0), ("say", 2), ("kill", 0), ("exit", 7), ("say", 5)]
    found = run(items, processes)
    assert [value[0] for value in (found[0], found[2], found[5])] == [0, 2, 5]
    assert "SIGSEGV" in found[1].reason
    assert "memory" in found[3].reason
    assert "code 7" in found[4].reason
    assert not any(found[number].timed_out for number in (1, 3, 4))


@pytest.mark.parametrize("kind", ["kill-once", "starve-once"])
@pytest.mark.parametrize("processes", [1, 2])
def test_an_item_that_was_killed_has_a_second_chance_alone_and_last(tmp_path, kind, processes):
    items = [(kind, tmp_path / "a"), ("say", 1), (kind, tmp_path / "b"), *[("say", 2)] * 5]
    order = list(work_apart(work, items, processes, 30.0))
    # Which of two that were killed at once comes first is up to the kernel.
    assert sorted(number for number, _ in order[-2:]) == [0, 2]
    found = dict(order)
    assert found[0][0] == found[2][0] == "second"
    pids = {pid for number, (_, pid) in found.items() if number not in (0, 2)}
    assert not pids & {found[0][1], found[2][1]}, "a process of its own"
    assert found[0][1] != found[2][1]


def test_others_are_gone_when_an_item_has_its_second_chance(tmp_path):
    def look(item):
        if item == "sleeper":
            time.sleep(0.5)
        elif not (tmp_path / "tried").exists():
            (tmp_path / "tried").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        children = Path(f"/proc/{os.getppid()}/task/{os.getppid()}/children").read_text()
        return children.split() == [str(os.getpid())]

    found = dict(work_apart(look, ["victim", "sleeper", "sleeper"], 3, 30.0))
    assert found[0] is True


def test_what_is_killed_twice_is_lost_and_what_gets_no_memory_twice_says_so(tmp_path):
    killed, starved, other = run([("kill", 0), ("starve", tmp_path / "a"), ("say", 1)])
    assert killed.starved
    assert not killed.timed_out
    assert "SIGKILL" in killed.reason
    assert "twice" in killed.reason
    assert starved.out_of_memory
    assert "Cannot allocate memory" in starved.reason
    assert other[0] == 1


def test_the_kernels_counter_tells_memory_from_another_kill(monkeypatch):
    counts = iter([4, 5])
    monkeypatch.setattr(workers, "oom_kills", lambda: next(counts))
    assert run([("kill", 0)], processes=1)[0].out_of_memory
    monkeypatch.setattr(workers, "oom_kills", lambda: 5)
    assert not run([("kill", 0)], processes=1)[0].out_of_memory


def test_a_crash_and_a_hang_have_no_second_chance(tmp_path):
    def once(item):
        path = tmp_path / str(item)
        assert not path.exists(), "tried twice"
        path.touch()
        if item == 0:
            faulthandler.disable()
            ctypes.string_at(0)
        time.sleep(60)

    found = dict(work_apart(once, [0, 1], 2, 2.0))
    assert "SIGSEGV" in found[0].reason
    assert found[1].timed_out
    assert not found[0].starved
    assert not found[1].starved


def test_an_item_that_hangs_is_stopped_and_the_others_go_on():
    started = time.monotonic()
    found = run([("sleep", 600), ("say", 1), ("say", 2)], processes=1, seconds=1.0)
    assert time.monotonic() - started < 20
    assert isinstance(found[0], Lost)
    assert found[0].timed_out
    assert [value[0] for value in found[1:]] == [1, 2]


def test_the_clock_starts_anew_with_every_item():
    found = run([("sleep", 0.5)] * 4, processes=1, seconds=1.5)
    assert not any(isinstance(value, Lost) for value in found)


def test_a_bug_ends_the_job_with_the_childs_traceback():
    with pytest.raises(KeyError) as caught:
        run([("say", 1), ("bug", "x"), ("say", 2)])
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "raise KeyError(value)" in str(caught.value.__cause__)


def test_a_fault_of_the_users_keeps_its_words():
    with pytest.raises(UserError, match="tiles: wrong"):
        run([("config", 0)])


def test_no_child_outlives_the_job():
    for _ in work_apart(work, [("say", number) for number in range(4)], 2, 30.0):
        break
    time.sleep(0.2)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_cpus_are_those_of_the_job(monkeypatch):
    affinity = len(os.sched_getaffinity(0))
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert available_cpus() == affinity
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert available_cpus() == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4000")
    assert available_cpus() == affinity


def test_a_child_that_hangs_dies_with_a_parent_that_is_killed(tmp_path):
    code = (
        "import os, sys, time; from pathlib import Path\n"
        "from slidemill.artifacts.workers import work_apart\n"
        "def hang(path):\n"
        "    path.write_text(str(os.getpid()))\n"
        "    time.sleep(600)\n"
        "list(work_apart(hang, [Path(sys.argv[1])], 1, 600.0))\n"
    )
    path = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", code, str(path)])
    deadline = time.monotonic() + 30
    while not (path.exists() and path.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    child = Path(f"/proc/{path.read_text()}/stat")
    assert child.exists()
    parent.kill()
    parent.wait()
    while child.exists() and child.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.exists() or child.read_text().split()[2] == "Z"


def blur(size):
    cv2.setNumThreads(1)
    return cv2.GaussianBlur(np.ones((size, size, 3), np.uint8), (0, 0), 5.0).shape


def test_opencvs_threads_in_the_parent_do_not_stop_its_children():
    cv2.setNumThreads(4)
    cv2.GaussianBlur(np.ones((2000, 2000, 3), np.uint8), (0, 0), 5.0)
    found = dict(work_apart(blur, [500] * 4, 2, 10.0))
    assert found == dict.fromkeys(range(4), (500, 500, 3))
