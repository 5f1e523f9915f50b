"""Marks of jobs at work: which bucket is computed, where, and since when.

A job writes `results/running/<stage>-<run>[-<bucket>].json` and renews the file's time until it
ends; then the mark goes. One that is not renewed any more is of a job that was killed. Marks only
inform: what can not be written is done without, and no result depends on them. Several jobs of one
bucket share a mark; it goes with the job that wrote it last, and the others write it again.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slidemill.artifacts.atomic import write_text
from slidemill.artifacts.folder import StageId
from slidemill.plan import Plan

RUN_VARIABLE = "SLIDEMILL_RUN"
"""Environment variable in which a driver tells its jobs the record of their run."""
RENEW_SECONDS = 20.0
"""How often a job says that it is still there."""
LOST_SECONDS = 120.0
"""Age at which a mark is taken for that of a killed job."""


@dataclass(frozen=True)
class Mark:
    """A job at work, or one that was killed.

    Attributes:
        host: Where it runs.
        pid: Its process there.
        slurm_job_id: Its job of Slurm, if it is one.
        run: Record of the run that it belongs to; None for a command of its own.
        started: When it began, ISO 8601 in UTC.
        seen: When it was last there, ISO 8601 in UTC.
        lost: Whether it is there no more.
    """

    host: str
    pid: int
    slurm_job_id: str | None
    run: str | None
    started: str
    seen: str
    lost: bool

    @property
    def where(self) -> str:
        """The place, for people."""
        slurm = f", Slurm job {self.slurm_job_id}" if self.slurm_job_id else ""
        return f"on {self.host}{slurm}, process {self.pid}"


def marks_folder(results: Path) -> Path:
    """Where marks are."""
    return results / "running"


def mark_name(stage: StageId, bucket: str | None = None) -> str:
    """Name of the mark of a job, without its ending."""
    return "-".join([stage.stage, stage.name, *([bucket] if bucket else [])])


@contextmanager
def working(plan: Plan, stage: StageId, bucket: str | None = None) -> Iterator[None]:
    """Leave a mark while the block runs; of several processes of a training, the first one does.

    Args:
        plan: The plan.
        stage: What is being computed.
        bucket: Its bucket, for stages that have some.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    path = marks_folder(plan.results) / f"{mark_name(stage, bucket)}.json"
    text = json.dumps(_facts(), sort_keys=True) + "\n"
    _write(path, text)
    ended = threading.Event()
    # Jobs fork workers while this thread lives. That is safe: it only waits and renews a time, so
    # that it holds no lock that a child could need.
    renewing = threading.Thread(target=_renew, args=(path, text, ended), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join(timeout=5.0)
        with suppress(OSError):
            if path.read_text(encoding="utf-8") == text:
                path.unlink()


def read_marks(results: Path) -> dict[str, Mark]:
    """The marks that there are, by name; one that ends meanwhile is left out."""
    found = {}
    with suppress(OSError), os.scandir(marks_folder(results)) as entries:
        for entry in entries:
            if entry.name.endswith(".json") and not entry.name.startswith("."):
                with suppress(OSError, ValueError, KeyError):
                    found[entry.name.removesuffix(".json")] = _read(Path(entry.path))
    return found


def _read(path: Path) -> Mark:
    facts = json.loads(path.read_text(encoding="utf-8"))
    seen = path.stat().st_mtime
    host, pid = str(facts["host"]), int(facts["pid"])
    dead = host == platform.node() and not is_there(pid)
    return Mark(
        host=host,
        pid=pid,
        slurm_job_id=facts["slurm_job_id"],
        run=facts.get("run"),
        started=str(facts["started"]),
        seen=datetime.fromtimestamp(seen, UTC).isoformat(timespec="seconds"),
        lost=dead or time.time() - seen > LOST_SECONDS,
    )


def is_there(pid: int) -> bool:
    """Whether a process of this machine lives."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _facts() -> dict[str, Any]:
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "run": os.environ.get(RUN_VARIABLE),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _renew(path: Path, text: str, ended: threading.Event) -> None:
    while not ended.wait(RENEW_SECONDS):
        try:
            os.utime(path)
        except FileNotFoundError:
            # Another job of the same bucket ended, and took it along.
            _write(path, text)
        except OSError:
            continue


def _write(path: Path, text: str) -> None:
    # Where nothing can be written, the job itself will say so.
    with suppress(OSError):
        write_text(path, text)
