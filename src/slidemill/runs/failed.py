"""Failed slides: which there are, and asking for them again.

Asking writes a flag a bucket, `results/recompute/failed/<stage>/<run>/<bucket>`, of the stage in
which a slide failed and of no other. It is an input of that bucket's rule: the next run of the
workflow computes the bucket again, and what hangs on it. There, only the slides that failed have
work: the files of the others are there.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slidemill.config import STAGES
from slidemill.errors import Problem, ProblemsError
from slidemill.plan import Plan
from slidemill.runs.counts import Failure
from slidemill.runs.flags import raise_flags
from slidemill.runs.status import buckets_of, read_status, slide_stages


class RetryError(ProblemsError):
    """What was asked for has not failed."""

    title = "choice"


@dataclass(frozen=True)
class Retry:
    """A bucket that is asked for again.

    Attributes:
        stage: The stage in which slides failed.
        run: Its run, by the name of its folder.
        bucket: The bucket.
        slides: The slides that it is asked for.
        beside: Slides that failed in the same bucket, and are computed again with them.
        flag: The file that says so.
    """

    stage: str
    run: str
    bucket: str
    slides: tuple[str, ...]
    beside: tuple[str, ...]
    flag: Path


def choose(
    failures: Sequence[Failure], slide_ids: Sequence[str], stage: str | None
) -> list[Failure]:
    """Those failures that are of certain slides and of a stage.

    Args:
        failures: All of them.
        slide_ids: Slides; all if there is none.
        stage: A stage; None for all.

    Raises:
        RetryError: If a slide has not failed there, or there is no such stage.
    """
    problems = []
    if stage is not None and stage not in STAGES:
        known = ", ".join(STAGES)
        problems.append(Problem("--stage", f"no stage {stage!r}", f"There are: {known}"))
    found = [
        failure
        for failure in failures
        if stage in (None, failure.stage) and (not slide_ids or failure.slide_id in slide_ids)
    ]
    where = f" in {stage}" if stage else ""
    there = {failure.slide_id for failure in found}
    problems += [
        Problem(slide_id, f"no such slide has failed{where}", "`slidemill failed` lists those")
        for slide_id in slide_ids
        if slide_id not in there
    ]
    if problems:
        raise RetryError("of failed slides", problems)
    return found


def plan_retry(plan: Plan, failures: Sequence[Failure], chosen: Sequence[Failure]) -> list[Retry]:
    """The buckets in which the chosen slides failed."""
    wanted = set(chosen)
    found = []
    for stage in slide_stages(plan):
        own = {one.slide_id: one for one in failures if one.run == stage.name}
        own = {name: one for name, one in own.items() if one.stage == stage.stage}
        for bucket, slides in buckets_of(plan, stage).items() if own else ():
            here = [own[slide_id] for slide_id in slides if slide_id in own]
            asked = tuple(one.slide_id for one in here if one in wanted)
            if asked:
                beside = tuple(one.slide_id for one in here if one not in wanted)
                flag = plan.retry_flag(stage.stage, stage.name, bucket)
                found.append(Retry(stage.stage, stage.name, bucket, asked, beside, flag))
    return found


def retry_failed(plan: Plan, chosen: Sequence[Failure]) -> list[Retry]:
    """Ask for slides again; returns the buckets that are to be computed."""
    found = plan_retry(plan, read_status(plan).failures, chosen)
    raise_flags(one.flag for one in found)
    return found


def all_flags(plan: Plan) -> list[Path]:
    """The flags of all buckets in which slides failed; nothing is written."""
    failures = read_status(plan).failures
    return [one.flag for one in plan_retry(plan, failures, failures)]


def as_json(failures: Sequence[Failure], flagged: Sequence[Retry] | None) -> str:
    """Failed slides, and what was asked for again, as docs/formats.md describes."""
    found: dict[str, object] = {"failed": [failure._asdict() for failure in failures]}
    if flagged is not None:
        found["flagged"] = [
            {
                "stage": one.stage,
                "run": one.run,
                "bucket": one.bucket,
                "slides": one.slides,
                "beside": one.beside,
                "flag": str(one.flag),
            }
            for one in flagged
        ]
    return json.dumps(found, indent=2)
