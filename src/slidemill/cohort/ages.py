"""When files were last changed: what tells the workflow that a slide was scanned again.

Looks at files and reads none of them: a hundred thousand slides on a slow shared file system take
seconds, since many are looked at side by side. Whether the content changed is found out later, by
the job that opens the slide.

What a run saw is kept in `ages.json` of the cohort's folder. A file that is gone counts as it was
last seen, since results stay right when their slides are moved to an archive.
"""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from slidemill.artifacts.atomic import write_text

Age = tuple[int, int]
"""Length in bytes and time of change in ns."""
THREADS = 32
"""Files looked at side by side; the wait for a file server is what takes time."""
CHUNK = 64
"""Files that a thread takes at once, since handing one over costs more than a look at it."""


def file_ages(paths: Sequence[str]) -> list[Age | None]:
    """Length in bytes and time of change in ns of every file; None where it cannot be looked at.

    A folder is looked at as itself, not at what is in it.
    """
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    if len(chunks) <= 1:
        return _ages(paths)
    with ThreadPoolExecutor(THREADS) as pool:
        return [age for ages in pool.map(_ages, chunks) for age in ages]


def ages_or_last_seen(paths: Sequence[str], memory: Path) -> dict[str, Age | None]:
    """Age of every file by its path; of one that is gone, as a run last saw it.

    Args:
        paths: The files.
        memory: What runs saw, as `remember` writes it; it need not be there.
    """
    found = dict(zip(paths, file_ages(paths), strict=True))
    if None in found.values():
        known = _read(memory)
        found = {path: age or known.get(path) for path, age in found.items()}
    return found


def remember(ages: Mapping[str, Age | None], memory: Path) -> None:
    """Keep what a run saw; files that it did not look at stay as they were."""
    known = _read(memory)
    now = known | {path: age for path, age in ages.items() if age is not None}
    if now != known:
        write_text(memory, json.dumps(now, sort_keys=True) + "\n")


def _read(memory: Path) -> dict[str, Age]:
    try:
        found = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(path): (int(age[0]), int(age[1])) for path, age in found.items()}


def _ages(paths: Sequence[str]) -> list[Age | None]:
    return [_age(path) for path in paths]


def _age(path: str) -> Age | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - a hundred thousand Paths take longer than the looks
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
