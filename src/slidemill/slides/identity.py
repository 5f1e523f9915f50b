"""Whether a slide is still the file that the cohort stage saw.

Stages open a slide minutes or days after the cohort stage did, and their results bear the digest of
what that saw. So each compares fingerprints before it reads and after it has read: a file that was
replaced meanwhile is a fault of the slide (`changed`), and never a result under the old digest. A
comparison reads 1 MiB at most of a slide in one file.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slidemill.artifacts.digest import fingerprint
from slidemill.errors import SlideCode, SlideError
from slidemill.slides.readers.choice import (
    HEAD_BYTES,
    JPEG_MAGIC,
    PNG_MAGIC,
    TIFF_MAGIC,
    system_fault,
)
from slidemill.slides.readers.dicom_file import is_dicom
from slidemill.slides.readers.dicom_series import series_files

CZI_MAGIC = b"ZISRAWFILE"
SQLITE_MAGIC = b"SQLite format 3\0"
"""Sakura's slides."""
MAX_BESIDE = 500
"""Files of a DICOM folder that are looked at; in a larger one a series is not looked for."""
ENDS = 2
"""Windows that are read of each file beside a slide's own: its first and last bytes."""


def files_beside(path: Path) -> tuple[Path, ...] | None:
    """What belongs to a slide beside the file that the sheet names.

    Args:
        path: The file; it is told by what it is, as the readers do.

    Returns:
        The files, sorted: the folder of an MRXS, the other instances of a DICOM series, nothing
        for formats of one file. None where it is not known (VMS, VMU, a DICOM folder of more than
        `MAX_BESIDE` files).

    Raises:
        OSError: If the file cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    folder = path.with_suffix("")
    if path.suffix.lower() == ".mrxs" and folder.is_dir():
        return tuple(sorted(one for one in folder.rglob("*") if one.is_file()))
    if is_dicom(head):
        return series_files(path, MAX_BESIDE)
    is_alone = head.startswith((*TIFF_MAGIC, JPEG_MAGIC, PNG_MAGIC, CZI_MAGIC, SQLITE_MAGIC))
    return () if is_alone else None


def slide_fingerprint(path: Path) -> str:
    """Identity of a slide, over all files that are known to belong to it.

    Of the file that the sheet names 1 MiB at most is read; of each file beside it, 128 KiB, with
    its name.

    Returns:
        `slidemill.artifacts.digest.fingerprint` of a slide in one file; otherwise a sha256 over
        those of all its files.

    Raises:
        OSError: If a file cannot be read.
    """
    own = fingerprint(path)
    beside = files_beside(path)
    if not beside:
        return own
    state = hashlib.sha256(own.encode())
    for one in beside:
        name = one.relative_to(path.parent).as_posix()
        state.update(f"\0{name}\0{fingerprint(one, windows=ENDS)}".encode())
    return state.hexdigest()


def check_same(path: Path, seen: str) -> None:
    """Refuse a slide that is not the one that the cohort stage saw.

    Args:
        path: The slide.
        seen: Its fingerprint in the cohort's table.

    Raises:
        SlideError: If it is another one (changed), or is gone (file-missing), or the system does
            not read it.
    """
    try:
        found = slide_fingerprint(path)
    except OSError as error:
        raise system_fault(path, error) from None
    if found != seen:
        raise SlideError(
            SlideCode.CHANGED,
            f"{path}: the file is not the one that the cohort stage saw, or was changed while it "
            "was read; run again: the cohort stage looks at it anew",
        )


@contextmanager
def same_slide(path: Path, seen: str) -> Iterator[None]:
    """Compare before and after a block that reads a slide.

    What goes wrong with a slide that was replaced meanwhile is put down to that.

    Raises:
        SlideError: See `check_same`; and what the block raises.
    """
    check_same(path, seen)
    try:
        yield
    except SlideError:
        check_same(path, seen)
        raise
    check_same(path, seen)
