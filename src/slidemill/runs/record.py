"""The record of a run: `runs/<time>.json`, and beside it what the run came to.

Written when a run starts (command, commit, configuration, the identity of every stage, versions,
hardware) and again when it ends (status, counts). With the end come `runs/<time>.parquet`, what
every slide came to in every stage, and `runs/<time>-metrics.parquet`, the metrics over all folds. A
run that was killed has no end, and neither table.
"""

import json
import logging
import os
import platform
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from slidemill.artifacts.atomic import write_text
from slidemill.artifacts.folder import StageId
from slidemill.artifacts.provenance import package_versions
from slidemill.errors import ArtifactError, UserError
from slidemill.plan import Plan
from slidemill.runs import outcome
from slidemill.runs.machine import git_commit, hardware

log = logging.getLogger(__name__)

_LAST = re.compile(r"last(?:~(\d+))?")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class StageRecord(_Record):
    """Identity of a stage of a run.

    Attributes:
        stage: Name of the stage.
        run: Name of its folder.
        label: What people call it.
        digest: Its digest.
        artifact: Type and version of its main artifact.
        algorithm_version: Version of the stage's code.
        parameters: What changes its values.
        upstream: Folders that it reads, as `<stage>/<run>`.
    """

    stage: str
    run: str
    label: str
    digest: str
    artifact: tuple[str, int]
    algorithm_version: int
    parameters: dict[str, Any]
    upstream: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str]:
        """Stage and name of the folder."""
        return self.stage, self.run


class SheetRecord(_Record):
    """The sheet of a run: where it was, and the digest of its rows."""

    path: str
    digest: str
    slides: int


class StageCounts(_Record):
    """What a stage had come to when a run ended.

    Attributes:
        stage: Name of the stage.
        run: Name of its folder.
        done: Whether its last file was there.
        ok: Slides with a result; None for a stage that is not per slide.
        failed: Slides that failed here or before.
        missing: Slides that it had not reached.
        codes: Failed slides by `<stage that failed>: <error code>`.
    """

    stage: str
    run: str
    done: bool
    ok: int | None = None
    failed: int | None = None
    missing: int | None = None
    codes: dict[str, int] = {}


class RunRecord(_Record):
    """Facts about a run.

    Attributes:
        started: When it started (ISO 8601, UTC).
        command: Its command line.
        commit: Commit of the code; None where it does not run from a checkout.
        configuration: Name of the configuration in `configs/`.
        config: The configuration, what holds for one call only included.
        sheet: The sheet.
        stages: Every stage of its plan.
        versions: Versions of the packages that results depend on.
        hardware: Host, platform, CPUs and GPUs of the driver.
        slurm_job_id: Job in which the driver ran.
        slurm_run: Name that all of the run's jobs have in Slurm.
        status: `success` or `error`, or `killed` as a later run found out; None while it has no
            end.
        finished: When it ended.
        counts: What every stage had come to; empty while it has no end.
    """

    started: str
    command: tuple[str, ...]
    commit: str | None
    configuration: str
    config: dict[str, Any]
    sheet: SheetRecord
    stages: tuple[StageRecord, ...]
    versions: dict[str, str]
    hardware: dict[str, Any]
    slurm_job_id: str | None
    slurm_run: str | None = None
    status: str | None = None
    finished: str | None = None
    counts: tuple[StageCounts, ...] = ()


def begin(plan: Plan, configuration: str, slurm_run: str | None = None) -> Path:
    """Write the record of a run that starts.

    Args:
        plan: Its plan.
        configuration: Name of its configuration in `configs/`.
        slurm_run: Name that all of its jobs have in Slurm; None without Slurm.

    Returns:
        Path of the record.
    """
    record = RunRecord(
        started=_now(),
        command=(Path(sys.argv[0]).name, *sys.argv[1:]),
        commit=git_commit(Path(__file__).parent),
        configuration=configuration,
        config=plan.config.model_dump(mode="json"),
        sheet=SheetRecord(
            path=str(plan.sheet.path), digest=plan.sheet_digest(), slides=len(plan.slide_ids)
        ),
        stages=tuple(_stage(stage) for stage in plan.all_stages()),
        versions={"python": platform.python_version()} | package_versions(),
        hardware=hardware(),
        slurm_job_id=os.environ.get("SLURM_JOB_ID"),
        slurm_run=slurm_run,
    )
    stamp = record.started.replace(":", "").replace("-", "").replace("+0000", "Z")
    path = plan.results / "runs" / f"{stamp}-{os.getpid()}.json"
    _write(path, record)
    return path


def end(plan: Plan, path: Path, status: str) -> None:
    """Note how a run ended and what it came to.

    Args:
        plan: Its plan.
        path: Its record.
        status: `success` or `error`.
    """
    ended = read_record(path).model_copy(update={"status": status, "finished": _now()})
    # First of all that there was an end: what follows takes seconds on a large cohort.
    _write(path, ended)
    rows = outcome.slide_rows(plan)
    outcome.write_results(results_path(path), rows)
    outcome.write_metrics(metrics_path(path), outcome.metrics_rows(plan))
    counts = tuple(StageCounts.model_validate(one) for one in outcome.counts(plan, rows))
    _write(path, ended.model_copy(update={"counts": counts}))


def results_path(record: Path) -> Path:
    """The table of what every slide came to."""
    return record.with_suffix(".parquet")


def metrics_path(record: Path) -> Path:
    """The table of metrics over all folds."""
    return record.with_name(f"{record.stem}-metrics.parquet")


def read_record(path: Path) -> RunRecord:
    """Read the record of a run.

    Raises:
        ArtifactError: If it is missing, damaged, or of a slidemill before records had stages.
    """
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(
            f"{path}: there is no such run. `ls {path.parent}` shows those there are."
        ) from None
    except ValidationError as error:
        places = ", ".join(".".join(map(str, one["loc"])) or "it" for one in error.errors()[:3])
        raise ArtifactError(
            f"{path}: not a record of a run that this slidemill reads ({places} is not valid). "
            "It is damaged, or older than records with stages; leave it out."
        ) from None


def record_paths(results: Path) -> list[Path]:
    """Records of a results folder, oldest first."""
    return sorted((results / "runs").glob("*.json"))


def find_record(name: str, results: Path) -> Path:
    """The record that a user means.

    Args:
        name: Its name or the beginning of it, `last`, or `last~1` for the one before.
        results: Folder of results.

    Raises:
        UserError: If there is none, or more than one.
    """
    paths = record_paths(results)
    runs = results / "runs"
    last = _LAST.fullmatch(name)
    if last is not None:
        back = int(last[1] or 0)
        if back >= len(paths):
            raise UserError(f"{name}: {runs} has {len(paths)} runs. Give one of those.")
        return paths[-1 - back]
    found = [path for path in paths if path.stem.startswith(name)]
    if len(found) == 1:
        return found[0]
    named = ", ".join(path.stem for path in (found or paths)[-5:]) or "none"
    which = "several runs begin with that" if found else "no run begins with that"
    raise UserError(f"{name}: {which} in {runs}. Give more of the name; the latest are: {named}.")


def latest_by_configuration(results: Path) -> dict[str, tuple[Path, RunRecord]]:
    """The last run of every configuration, by its name in `configs/`; unreadable ones left out."""
    found = {}
    for path in record_paths(results):
        try:
            record = read_record(path)
        except ArtifactError:
            continue
        found[record.configuration] = (path, record)
    return found


def _stage(stage: StageId) -> StageRecord:
    return StageRecord(
        stage=stage.stage,
        run=stage.name,
        label=stage.label,
        digest=stage.digest,
        artifact=(stage.spec.type, stage.spec.version),
        algorithm_version=stage.algorithm_version,
        parameters=dict(stage.parameters),
        upstream=tuple(f"{above.stage}/{above.name}" for above in stage.upstream),
    )


def _write(path: Path, record: RunRecord) -> None:
    facts = record.model_dump(mode="json")
    if record.status is None:
        # A run without an end says nothing of one.
        del facts["status"], facts["finished"]
    write_text(path, json.dumps(facts, indent=2, sort_keys=True) + "\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
