"""When files were last changed: what tells the workflow that a slide was scanned again.

Looks at files and reads none of them: a hundred thousand slides on a slow shared file system take
seconds, since many are looked at side by side. Whether the content changed is found out later, by
the job that opens the slide.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

THREADS = 32
"""Files looked at side by side; the wait for a file server is what takes time."""
CHUNK = 64
"""Files that a thread takes at once, since handing one over costs more than a look at it."""


def file_ages(paths: Sequence[str]) -> list[tuple[int, int] | None]:
    """Length in bytes and time of change in ns of every file; None where it cannot be looked at.

    A folder is looked at as itself, not at what is in it.
    """
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    if len(chunks) <= 1:
        return _ages(paths)
    with ThreadPoolExecutor(THREADS) as pool:
        return [age for ages in pool.map(_ages, chunks) for age in ages]


def _ages(paths: Sequence[str]) -> list[tuple[int, int] | None]:
    return [_age(path) for path in paths]


def _age(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - a hundred thousand Paths take longer than the looks
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
