"""What the Snakefile needs: the plan of its configuration, and the start and end of a run.

Imports neither torch nor anything that opens slides: the workflow is parsed again in every job of a
cluster.
"""

import atexit
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from slidemill.artifacts.atomic import write_text
from slidemill.artifacts.digest import SHORT, canonical_json, digest_of
from slidemill.artifacts.provenance import command_line, run_record, write_run_record
from slidemill.config import Config, parse_config
from slidemill.errors import UserError
from slidemill.plan import Plan
from slidemill.planner import make_plan

CONFIG_VARIABLE = "SLIDEMILL_CONFIG"
"""Environment variable in which the workflow tells its jobs where the configuration is."""

_locks: list[IO[str]] = []
_renewed: dict[str, Path] = {}


def plan_workflow(values: Mapping[str, Any]) -> Plan:
    """Plan the configuration of a workflow, and tell its jobs where it will be.

    Args:
        values: Snakemake's `config`: the file with what `--config` changed.

    Raises:
        UserError: If the configuration or the sheet is not valid.
    """
    plan = make_plan(parse_config(dict(values), "of this run"), Path())
    os.environ[CONFIG_VARIABLE] = str(resolved_path(plan.config))
    return plan


def resolved_path(config: Config) -> Path:
    """Where the configuration of a run is kept, command-line changes included."""
    return Path(config.results) / "configs" / f"{digest_of(_lasting(config))[:SHORT]}.json"


def _lasting(config: Config) -> dict[str, Any]:
    """The configuration without what holds for one call only."""
    return config.model_dump(mode="json", exclude={"recompute", "until"})


def start(plan: Plan) -> Path:
    """Begin a run: take the lock, keep the configuration and the record of the run.

    Returns:
        Path of the run's record.

    Raises:
        UserError: If another run works on the same results.
    """
    _lock(plan.results)
    write_text(resolved_path(plan.config), canonical_json(_lasting(plan.config)) + "\n")
    record = run_record(command_line(), plan.config.model_dump(mode="json"))
    return write_run_record(plan.results, record)


def finish(record: Path, status: str) -> None:
    """End a run: note how it ended."""
    from datetime import UTC, datetime

    facts = json.loads(record.read_text(encoding="utf-8"))
    facts |= {"status": status, "finished": datetime.now(UTC).isoformat(timespec="seconds")}
    write_text(record, json.dumps(facts, indent=2, sort_keys=True) + "\n")


def _lock(results: Path) -> None:
    """Take a lock that the operating system lets go when this process ends, however it ends."""
    results.mkdir(parents=True, exist_ok=True)
    stream = (results / ".lock").open("a")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"{results}: another run is working on these results. Wait for it, or end it."
        ) from None
    _locks.append(stream)


def recompute_flags(plan: Plan, stages: Sequence[str], asks: bool, dry: bool) -> list[Path]:
    """Files whose age says since when results of stages count; a rule has them as input.

    Asking for a stage again renews its file. Results older than it are computed again, also by a
    later run if this one is killed; a dry run renews nothing, and shows a passing file instead.

    Args:
        plan: The plan; its configuration says what is to be computed again.
        stages: Names that `recompute` may have for the rule.
        asks: Whether this process is the one that was asked (jobs parse the workflow again).
        dry: Whether nothing may be written.
    """
    for stage in stages:
        if asks and stage in plan.config.recompute and stage not in _renewed:
            path = plan.recompute_flag(stage)
            if dry:
                folder = Path(tempfile.mkdtemp(prefix="slidemill-"))
                atexit.register(shutil.rmtree, folder, ignore_errors=True)
                path = folder / stage
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            _renewed[stage] = path
    paths = [_renewed.get(stage, plan.recompute_flag(stage)) for stage in stages]
    return [path for path in paths if path.exists()]
