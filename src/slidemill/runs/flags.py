"""Flags: files under `results/recompute/` by which results are asked for again.

They are inputs of the workflow's rules, so that a rule runs whose flag is younger than its output.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from slidemill.artifacts.atomic import write_text


def raise_flags(paths: Iterable[Path]) -> None:
    """Write flags.

    The time is in them too: of small files Snakemake also compares what is in them, so that a flag
    which only became younger would not count.
    """
    now = datetime.now(UTC).isoformat() + "\n"
    for path in paths:
        write_text(path, now)
