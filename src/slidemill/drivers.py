"""One driver at a time on a folder of results, and no job of a driver that is dead.

A driver is the process that plans a run and starts its jobs. It holds `results/.lock`: a lock of
the operating system, which ends with the process, and for file systems whose locks do not reach
other machines a file that says who holds it and is renewed as long as that process lives.

Jobs outlive a driver that is killed. The next driver ends them before it starts its own, so that no
slide is computed twice at once; what they have finished is kept.
"""

import atexit
import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from slidemill.artifacts.atomic import write_text
from slidemill.errors import UserError
from slidemill.runs.marks import is_there, read_marks

RENEWED = 20.0
"""Seconds after which a living driver says again that it lives."""
SILENT = 120.0
"""Seconds of silence after which a driver of another machine is taken for dead."""
PATIENCE = 120.0
"""Seconds that jobs have to end."""

_locks: list[IO[str]] = []


def hold(results: Path) -> None:
    """Take the lock of a folder of results until this process ends, however it ends.

    Raises:
        UserError: If another driver works on the results, or nothing can be written there.
    """
    path = results / ".lock"
    try:
        results.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{results}: nothing can be written there ({error.strerror}). Fix the folder's rights "
            "or its file system (is it mounted read-only, or full?), then run again: all results "
            "that are there are kept."
        ) from None
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(_taken(results, _holder(path))) from None
    except OSError:
        # A file system without locks: the other half, below, has to do.
        pass
    holder = _holder(path)
    age = time.time() - path.stat().st_mtime
    if holder.get("host", _host()) != _host() and age < SILENT:
        raise UserError(
            _taken(results, holder) + f" It lived {age:.0f} s ago; if you know that it is dead, "
            f"wait {SILENT:.0f} s or delete {path}."
        )
    _locks.append(stream)
    _say(stream, {"host": _host(), "pid": os.getpid(), "since": _now()})
    threading.Thread(target=_renew, args=(path,), daemon=True).start()
    atexit.register(_say, stream, {})


def _taken(results: Path, holder: dict[str, Any]) -> str:
    who = (
        f" (on {holder['host']}, process {holder['pid']}, since {holder['since']})"
        if holder
        else ""
    )
    return (
        f"{results}: another run{who} is working on these results. Wait for it, or end it; "
        "`slidemill status` says how far it is."
    )


def _holder(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _say(stream: IO[str], facts: dict[str, Any]) -> None:
    """Put facts into the lock's file, in place: a file of another inode would be another lock."""
    stream.seek(0)
    stream.truncate()
    stream.write(json.dumps(facts))
    stream.flush()


def _renew(path: Path) -> None:
    while True:
        time.sleep(RENEWED)
        try:
            os.utime(path)
        except OSError:
            # The run itself will say what is wrong with the file system.
            continue


def _host() -> str:
    return platform.node()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def end_orphans(results: Path, own: Path) -> None:
    """End the jobs of drivers that were killed, and note in their records that they were.

    To be called by who holds the lock: every run without an end is dead then.

    Args:
        results: Folder of all results.
        own: Record of this run.

    Raises:
        UserError: If they do not end.
    """
    dead = list(_unfinished(results, own))
    _end_local(results, {str(path.resolve()) for path, _ in dead})
    for path, record in dead:
        name = str(record.get("slurm_run") or "")
        jobs = _slurm_jobs(name) if name else []
        if jobs:
            sys.stderr.write(
                f"slidemill: the run of {record['started']} was killed and left {len(jobs)} jobs "
                "in Slurm; they are cancelled, and what they have finished is kept.\n"
            )
            _cancel(name, jobs)
        record |= {"status": "killed", "finished": None}
        write_text(path, json.dumps(record, indent=2, sort_keys=True) + "\n")


def _end_local(results: Path, runs: set[str]) -> None:
    """End the jobs of runs that were started on this machine without Slurm."""
    marks = [mark for mark in read_marks(results).values() if mark.run in runs and not mark.lost]
    here = {mark.pid for mark in marks if mark.host == _host() and not mark.slurm_job_id}
    if not here:
        return
    sys.stderr.write(f"slidemill: a killed run left {len(here)} processes; they are ended.\n")
    for pid in here:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + PATIENCE
    while any(is_there(pid) for pid in here):
        if time.monotonic() > end:
            raise UserError(
                f"processes {sorted(here)} of an earlier run do not end. Kill them and run again."
            )
        time.sleep(0.2)


def _unfinished(results: Path, own: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted((results / "runs").glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
        if path != own and record.get("status") is None:
            yield path, record


def _slurm_jobs(name: str) -> list[str]:
    """Ids of the jobs of a driver that wait or run; none where there is no Slurm."""
    if shutil.which("squeue") is None:
        return []
    form = ["--noheader", "--format=%A", "--states=PENDING,RUNNING,COMPLETING,SUSPENDED"]
    done = subprocess.run(
        ["squeue", f"--name={name}", *form], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise UserError(
            f"squeue failed ({done.stderr.strip()}), so nobody knows whether jobs of an earlier "
            "run still work on these results. Run again when Slurm answers."
        )
    return done.stdout.split()


def _cancel(name: str, jobs: list[str]) -> None:
    subprocess.run(["scancel", *jobs], check=False)
    end = time.monotonic() + PATIENCE
    while _slurm_jobs(name):
        if time.monotonic() > end:
            raise UserError(
                f"Slurm has not ended jobs {', '.join(jobs)} of an earlier run within "
                f"{PATIENCE:.0f} s. Cancel them (scancel --name={name}) and run again."
            )
        time.sleep(1.0)
