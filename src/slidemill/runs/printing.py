"""Status and failures for people, on a terminal or in a log."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from slidemill.plan import WHOLE
from slidemill.runs.counts import BucketStatus, Failure
from slidemill.runs.failed import Retry
from slidemill.runs.status import RunStatus, StageStatus

if TYPE_CHECKING:
    from slidemill.runs.verify import Verdict

SHOWN = 20
"""Failed slides, or problems, that people are shown."""
LEFT = ("stage", "run", "bucket", "state")


def console() -> Console:
    """Where tables go; wide enough for logs and files."""
    found = Console()
    return found if found.is_terminal else Console(width=120)


def print_status(found: RunStatus, *, buckets: bool) -> None:
    """Print a line a stage, then what runs, then what failed.

    Args:
        found: The status.
        buckets: Whether to print a line a bucket too.
    """
    out = console()
    out.print(_stages_table(found))
    if buckets:
        out.print(_buckets_table(found))
    for line in _at_work(found):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    print_failures(found.failures)
    if found.failures:
        say(f"{failed_line(found)}; {RETRY}")


def say(text: str) -> None:
    """Print a line as it is, however long."""
    console().print(text, markup=False, highlight=False, soft_wrap=True)


def print_failures(failures: Sequence[Failure]) -> None:
    """Print the first failed slides with their reasons, and how many more there are."""
    # The runs of a stage often fail for the same reason.
    lines = list(dict.fromkeys(_failure_line(failure) for failure in failures))
    for line in islice(lines, SHOWN):
        say(line)
    if len(lines) > SHOWN:
        say(f"and {len(lines) - SHOWN} more; --json has all")


def _failure_line(failure: Failure) -> str:
    reason = f"{failure.stage}, {failure.error_code}: {failure.message}"
    return f"failed: {failure.slide_id} ({reason})"


RETRY = "`slidemill failed --retry` asks for them again"
HINT = f"`slidemill status` and `slidemill failed` say which and why, {RETRY}"


def failed_line(found: RunStatus) -> str:
    """How many slides failed, by stage and code."""
    seen = dict.fromkeys((one.slide_id, one.stage, one.error_code) for one in found.failures)
    counts = Counter((stage, code) for _, stage, code in seen)
    reasons = ", ".join(f"{stage}: {number} {code}" for (stage, code), number in counts.items())
    return f"{found.failed_slides} of {found.slides} slides failed ({reasons})"


def print_retry(flagged: Sequence[Retry]) -> None:
    """Print which buckets were flagged, and what computes them."""
    for one in flagged:
        beside = f", and with them {', '.join(one.beside)}" if one.beside else ""
        slides = ", ".join(one.slides)
        say(f"flagged: {one.stage} {one.run}, bucket {one.bucket}: {slides}{beside}")
    count = len({slide for one in flagged for slide in one.slides})
    if not flagged:
        say("no slide has failed; there is nothing to compute again")
    else:
        say(
            f"{count} failed slides in {len(flagged)} buckets; the next `snakemake ...` computes "
            "them again and what hangs on them, and nothing else"
        )


def print_verdict(found: "Verdict") -> None:
    """Print every problem, the first notes, and what was checked."""
    for problem in found.problems:
        say(str(problem))
    for note in found.notes[:SHOWN]:
        say(f"note: {note}")
    if len(found.notes) > SHOWN:
        say(f"note: and {len(found.notes) - SHOWN} more; --json has all")
    counts = ", ".join(f"{number} {kind}" for kind, number in found.checked.items())
    say(f"{len(found.problems)} problem(s); checked: {counts}")


def _stages_table(found: RunStatus) -> Table:
    table = _table("stages", "stage", "run", "done", "failed", "missing", "buckets", "running")
    for stage in found.stages:
        cut = stage.unit == "slide" and [one.bucket for one in stage.buckets] != [WHOLE]
        whole = f"{stage.count('done')}/{len(stage.buckets)}" if cut else ""
        numbers = (stage.done, stage.failed, stage.missing)
        table.add_row(*_names(stage), *map(str, numbers), whole, str(stage.count("running")))
    return table


def _buckets_table(found: RunStatus) -> Table:
    table = _table("buckets", "stage", "run", "bucket", "state", "done", "failed", "missing")
    for stage in found.stages:
        for one in stage.buckets:
            numbers = (one.done, one.failed, one.missing)
            table.add_row(*_names(stage), one.bucket, one.state, *map(str, numbers))
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in LEFT else "right")
    return table


def _names(stage: StageStatus) -> tuple[str, str]:
    return stage.stage.stage, stage.stage.name


def _at_work(found: RunStatus) -> Iterator[str]:
    """A line for each job that runs, or was killed."""
    for stage in found.stages:
        for one in stage.buckets:
            if one.state in ("running", "lost"):
                yield _job_line(stage, one)


def _job_line(stage: StageStatus, one: BucketStatus) -> str:
    assert one.mark is not None
    what = " ".join(_names(stage)) + ("" if one.bucket == WHOLE else f", bucket {one.bucket}")
    if one.state == "running":
        return f"running: {what}: since {_local(one.mark.started)} {one.mark.where}"
    seen = _local(one.mark.seen)
    return f"lost (last seen {seen}): {what}: {one.mark.where}; run again, finished slides are kept"


def _local(time: str) -> str:
    """A time as the clock on the wall shows it."""
    return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
