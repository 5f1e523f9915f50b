"""What the Snakefile needs: the plan of its configuration, and the start and end of a run.

Imports neither torch nor anything that opens slides: the workflow is parsed again in every job of a
cluster.
"""

import atexit
import gc
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from slidemill.artifacts.atomic import write_text
from slidemill.artifacts.digest import SHORT, canonical_json, digest_of
from slidemill.cohort.ages import remember
from slidemill.config import Config, parse_config
from slidemill.drivers import end_orphans, hold
from slidemill.errors import SlidemillError
from slidemill.plan import Plan
from slidemill.planner import make_plan
from slidemill.runs.flags import raise_flags
from slidemill.runs.marks import RUN_VARIABLE

log = logging.getLogger(__name__)

CONFIG_VARIABLE = "SLIDEMILL_CONFIG"
"""Environment variable in which the workflow tells its jobs where the configuration is."""
ROOT_VARIABLE = "SLIDEMILL_ROOT"
"""Environment variable that says where environments of `envs/` install slidemill from."""

_asked: set[str] = set()
_renewed: dict[Path, Path] = {}


def plan_workflow(values: Mapping[str, Any], snakefiles: Path) -> Plan:
    """Plan the configuration of a workflow, and tell its jobs where it will be.

    Args:
        values: Snakemake's `config`: the file with what `--config` changed.
        snakefiles: Folder of the workflow's Snakefile, in the root of the repository.

    Raises:
        UserError: If the configuration or the sheet is not valid.
    """
    plan = make_plan(parse_config(dict(values), "of this run"), Path())
    # The sheet stays for as long as the process does: no use in looking through it for garbage.
    gc.freeze()
    os.environ[CONFIG_VARIABLE] = str(resolved_path(plan.config))
    os.environ[ROOT_VARIABLE] = str(snakefiles.resolve().parent)
    return plan


def resolved_path(config: Config) -> Path:
    """Where the configuration of a run is kept, command-line changes included."""
    return Path(config.results) / "configs" / f"{digest_of(_lasting(config))[:SHORT]}.json"


def _lasting(config: Config) -> dict[str, Any]:
    """The configuration without what holds for one call only."""
    return config.model_dump(mode="json", exclude={"recompute", "until"})


def start(plan: Plan, slurm_run: str | None = None) -> Path:
    """Begin a run: take the lock, end what a killed run left, keep configuration and record.

    Args:
        plan: The plan.
        slurm_run: Name that all of the run's jobs have in Slurm; None without Slurm.

    Returns:
        Path of the run's record.

    Raises:
        UserError: If another run works on the same results.
    """
    hold(plan.results)
    configuration = resolved_path(plan.config)
    write_text(configuration, canonical_json(_lasting(plan.config)) + "\n")
    from slidemill.runs.record import begin

    record = begin(plan, configuration.stem, slurm_run)
    os.environ[RUN_VARIABLE] = str(record.resolve())
    end_orphans(plan.results, record)
    remember(plan.slide_ages, plan.ages_path)
    return record


def finish(plan: Plan, record: Path, status: str) -> None:
    """End a run: note how it ended and what it came to, and renew the catalogue.

    What cannot be written is said and changes nothing else: the run has ended as it has.
    """
    from slidemill.runs.catalog import update
    from slidemill.runs.record import end

    try:
        end(plan, record, status)
        update(plan.results)
    except (OSError, SlidemillError) as error:
        log.warning("the end of this run could not be noted in full: %s", error)


def recompute_flags(
    plan: Plan, stage: str, run: str, bucket: str, asks: bool, dry: bool
) -> list[Path]:
    """Files whose age says that a bucket has to be computed again; its rule has them as input.

    Asking for a stage again renews its file: results older than it are computed again, also by a
    later run if this one is killed. Asking for `failed` renews those of the buckets with failed
    slides, which outdate no result. A dry run renews nothing, and shows passing files instead.

    Args:
        plan: The plan; its configuration says what is to be computed again.
        stage: The rule's stage.
        run: Its run, by the name of its folder.
        bucket: Its bucket.
        asks: Whether this process is the one that was asked (jobs parse the workflow again).
        dry: Whether nothing may be written.
    """
    for name in (stage, "failed"):
        if asks and name in plan.config.recompute and name not in _asked:
            _asked.add(name)
            _renew(plan, name, dry)
    flags = [plan.recompute_flag(stage), plan.retry_flag(stage, run, bucket)]
    there = _raised(plan.results / "recompute")
    return [_renewed.get(flag, flag) for flag in flags if flag in _renewed or flag in there]


@cache
def _raised(folder: Path) -> frozenset[Path]:
    """The flags that were there when the workflow was planned; looked for once, and not by job."""
    return frozenset(path for path in folder.rglob("*") if path.is_file())


def _renew(plan: Plan, name: str, dry: bool) -> None:
    """Renew the flags of a stage, or of the buckets with failed slides."""
    if name == "failed":
        from slidemill.runs.failed import all_flags

        flags = all_flags(plan)
    else:
        flags = [plan.recompute_flag(name)]
    folder = plan.results
    if dry:
        folder = Path(tempfile.mkdtemp(prefix="slidemill-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shown = {flag: folder / flag.relative_to(plan.results) for flag in flags}
    raise_flags(shown.values())
    _renewed.update(shown)
