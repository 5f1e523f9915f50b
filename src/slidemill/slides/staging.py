"""Reading a slide where it lies, or from a copy in the job's scratch folder.

With `cohort.stage_slides` a job copies a slide to its scratch folder (TMPDIR, which clusters point
at a disk of the node) before it reads it, and removes the copy afterwards. Results do not depend on
it. A slide of several files is copied whole; where it is not known what belongs to it, where there
is no room, and where copying goes wrong, the slide is read in place and the log says why.

A copy is compared with what the cohort stage saw when it is complete, and so is the source: what is
read from it is that slide, whatever becomes of the source afterwards.
"""

import fcntl
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from slidemill.errors import SlideError
from slidemill.slides.identity import check_same, files_beside, same_slide

log = logging.getLogger(__name__)

PREFIX = "slidemill-slides-"
LOCK = ".in-use"
"""Held by the job; no slide can have its name."""
RESERVE_BYTES = 256 * 2**20
"""Room of the scratch disk that copies leave to others."""
BLOCK_BYTES = 8 * 2**20
"""Bytes that are copied at once."""


@contextmanager
def scratch_folder(wanted: bool) -> Iterator[Path | None]:
    """A private folder for copies, for as long as a job lasts; None where it is not wanted.

    It belongs to the process that makes it, so that children which are killed leave nothing. A job
    that was killed itself leaves it behind; where the site does not clear TMPDIR, the next job
    there does.
    """
    if not wanted:
        yield None
        return
    _remove_abandoned(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        # The lock goes with the last process of the job. It gets its name when it is held.
        with (folder / ".lock").open("wb") as lock:
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
                (folder / ".lock").rename(folder / LOCK)
            yield folder


def _remove_abandoned(temporary: Path) -> None:
    """Remove folders of jobs that were killed."""
    for folder in temporary.glob(f"{PREFIX}*"):
        with suppress(OSError), (folder / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            log.info("%s: removed; the job that had made it was killed", folder)


@contextmanager
def sound_slide(facts: Mapping[str, Any], scratch: Path | None) -> Iterator[Path]:
    """Give the path to read a slide from, sure to be the file that the cohort stage saw.

    Results must be written, or get their names, after this block.

    Args:
        facts: The slide's row of the cohort's table.
        scratch: Folder for a copy; None reads in place.

    Raises:
        SlideError: If the slide is not that file, before or after the block (changed,
            file-missing); and what the block raises, with the slide's own path.
    """
    path, seen = Path(facts["path"]), str(facts["fingerprint"])
    copy = None
    if scratch is not None:
        check_same(path, seen)
        copy = copy_slide(path, seen, scratch / str(facts["slide_id"]))
    if copy is None:
        with same_slide(path, seen):
            yield path
        return
    try:
        yield copy
    except SlideError as error:
        raise named(error, copy, path) from None
    finally:
        shutil.rmtree(copy.parent, ignore_errors=True)


def named(error: SlideError, copy: Path, path: Path) -> SlideError:
    """A fault that was found in a copy, put down to the slide itself."""
    return SlideError(error.code, error.message.replace(str(copy), str(path)))


def go_on() -> None:
    """Copy to the end, however long it takes."""


def copy_slide(
    path: Path, seen: str, folder: Path, may_go_on: Callable[[], None] = go_on
) -> Path | None:
    """Copy a slide, with all that belongs to it.

    Args:
        path: The slide.
        seen: Its fingerprint in the cohort's table.
        folder: Where to; what an earlier attempt left there is removed.
        may_go_on: Called between blocks; raises OSError to give up.

    Returns:
        The copy, under its own name; None where the slide is to be read in place: the log says why.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        beside = files_beside(path)
        if beside is None:
            log.info("%s: read in place, since it is not known which files belong to it", path)
            return None
        files = (path, *beside)
        needed = sum(one.stat().st_size for one in files)
        folder.mkdir(parents=True)
        free = shutil.disk_usage(folder).free
        if needed + RESERVE_BYTES > free:
            raise OSError(
                f"{folder.parent} has {free / 1e9:.2f} GB free, of which {RESERVE_BYTES / 1e9:.2f} "
                f"are left to others, and the slide has {needed / 1e9:.2f} GB"
            )
        for one in files:
            _copy(one, folder / one.relative_to(path.parent), may_go_on)
        # The source once more: what was replaced while it was copied may be half of each.
        for one in (path, folder / path.name):
            check_same(one, seen)
    except (OSError, SlideError) as error:
        log.warning("%s: read in place, since it cannot be copied: %s", path, error)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return folder / path.name


def _copy(source: Path, target: Path, may_go_on: Callable[[], None]) -> None:
    """Copy a file block by block.

    Raises:
        OSError: If it cannot be read, the disk is full, or it may not go on.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reading, target.open("wb") as writing:
        while block := reading.read(BLOCK_BYTES):
            may_go_on()
            writing.write(block)
