"""Which reader opens a file, and what a file is that none opens.

`auto` looks at what the file is, not at its name. TIFF of the kinds that slidemill reads itself
(Aperio, OME, generic) go to its own reader; vendors' formats and DICOM go to OpenSlide; DICOM in
JPEG 2000, and what OpenSlide refuses of DICOM, go to wsidicom; PNG and JPEG are read whole. Every
fault becomes a `SlideError` of its own code, with the file, the cause and the remedy in one line.
"""

import errno
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from slidemill.errors import SlideCode, SlideError
from slidemill.memory import is_shortage
from slidemill.slides.readers.base import (
    Backend,
    DamagedError,
    OpenError,
    SceneError,
    TruncatedError,
    UnsupportedError,
    faults_of,
)
from slidemill.slides.readers.dicom_file import is_dicom
from slidemill.slides.readers.dicom_series import has_jpeg_2000

if TYPE_CHECKING:
    from slidemill.slides.readers.tiff_openslide import OwnView

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG"
OWN_TIFF = (None, "aperio", "generic-tiff")
"""What OpenSlide calls the TIFFs that slidemill's own reader takes; None: OpenSlide refuses."""
HEAD_BYTES = 2048
SCAN_BYTES = 2**20
"""Of a file that is nothing, so many bytes are searched for the traces of a slide."""
_JPEG_TABLES = b"\xff\xd8\xff\xdb"
_JPEG_FRAME = b"\xff\xd8\xff\xc0"
_J2K_START = b"\xff\x4f\xff\x51"


def open_backend(path: Path, reader: str = "auto", scene: str | None = None) -> Backend:
    """Open a file.

    Args:
        path: The file.
        reader: A value of `cohort.reader`.
        scene: Name of the scene to read; None for the largest.

    Raises:
        SlideError: With the code of what is wrong.
    """
    try:
        return _open_any(path, reader, scene)
    except OSError as error:
        raise system_fault(path, error) from None


def _open_any(path: Path, reader: str, scene: str | None) -> Backend:
    head = _head(path)
    if reader != "auto":
        try:
            return _open(path, reader, scene)
        except SceneError as fault:
            raise _no_scene(path, fault) from None
        except OpenError as fault:
            raise SlideError(
                _code_of(fault, path, head),
                f"{path}: the reader {reader} does not open it ({fault}); "
                "set cohort.reader to auto or to another one",
            ) from None
    faults = []
    for name in _candidates(path, head):
        try:
            return _open(path, name, scene)
        except SceneError as fault:
            raise _no_scene(path, fault) from None
        except OpenError as fault:
            faults.append(fault)
            # A sound file of another kind, or half of one: what the next reader would make of it
            # are other pixels.
            if isinstance(fault, (TruncatedError, UnsupportedError, DamagedError)):
                break
    raise _why_not(path, head, faults)


def _open(path: Path, reader: str, scene: str | None) -> Backend:
    """Open with one reader; its library is imported only now."""
    if reader == "tiff":
        from slidemill.slides.readers.tiff import TiffBackend

        return TiffBackend(path, scene)
    if reader == "openslide":
        from slidemill.slides.readers.openslide import OpenSlideBackend

        return OpenSlideBackend(path, scene, _own_view(path, scene))
    if scene is not None:
        raise SceneError(f"the reader {reader} cannot choose a scene, such as {scene!r}")
    if reader == "wsidicom":
        from slidemill.slides.readers.dicom import DicomBackend

        return DicomBackend(path)
    if reader == "cucim":
        from slidemill.slides.readers.cucim import CuCimBackend

        own = _own_view(path)
        if own is not None and own.has_spare_channel:
            raise UnsupportedError("cuCIM takes its fourth channel for transparency")
        return CuCimBackend(path)
    assert reader == "image"
    from slidemill.slides.readers.image import ImageBackend

    return ImageBackend(path)


def _own_view(path: Path, scene: str | None = None) -> "OwnView | None":
    """What slidemill's own reader sees in a TIFF that a general reader is to show.

    OpenSlide clips 16 bits, shows one channel of several, and goes on after damaged tables.

    Returns:
        None for another file, and for a vendor's TIFF, of which the kind is checked alone.

    Raises:
        OpenError: If it is a TIFF that slidemill would not read itself, or not all of it.
    """
    if not _head(path).startswith(TIFF_MAGIC):
        return None
    if _vendor(path) in OWN_TIFF:
        from slidemill.slides.readers.tiff_openslide import own_view

        return own_view(path, scene)
    from slidemill.slides.readers.tiff_kind import check_vendors_kind

    check_vendors_kind(path)
    return None


def _vendor(path: Path) -> str | None:
    """What OpenSlide takes a file for."""
    import openslide

    with suppress(OpenError), faults_of("OpenSlide", OpenError):
        found: str | None = openslide.OpenSlide.detect_format(path)
        return found
    return None


def _candidates(path: Path, head: bytes) -> list[str]:
    """Readers to try, in order."""
    vendor = _vendor(path)
    if head.startswith(TIFF_MAGIC):
        # Never the other one: what it made of a file that this one refuses would be a guess.
        return ["tiff"] if vendor in OWN_TIFF else ["openslide"]
    if is_dicom(head):
        order = ["openslide", "wsidicom"]
        # OpenSlide hands on what it makes of damaged JPEG 2000.
        return order[::-1] if has_jpeg_2000(path) else order
    if vendor is not None:
        return ["openslide"]
    return ["image"] if head.startswith((JPEG_MAGIC, PNG_MAGIC)) else []


def system_fault(path: Path, error: OSError) -> SlideError:
    """What is wrong with a file that the system does not open or read.

    Raises:
        OSError: If memory was short, which is no fault of the file.
    """
    if is_shortage(error):
        raise error
    if isinstance(error, FileNotFoundError):
        return SlideError(
            SlideCode.FILE_MISSING, f"{path}: there is no such file; fix the path in the sheet"
        )
    if isinstance(error, PermissionError):
        return SlideError(
            SlideCode.NO_PERMISSION,
            f"{path}: it may not be read by this user; change its permissions or its folder's",
        )
    if error.errno == errno.ELOOP:
        return SlideError(
            SlideCode.SYMLINK_LOOP, f"{path}: its symbolic links lead in a circle; fix them"
        )
    if error.errno == errno.ESTALE:
        return SlideError(
            SlideCode.CHANGED,
            f"{path}: the file server has deleted or replaced it while it was read (stale file "
            "handle); run again",
        )
    return SlideError(
        SlideCode.UNREADABLE, f"{path}: the system cannot read it ({error}); copy it again"
    )


def _head(path: Path) -> bytes:
    """The first bytes of a file.

    Raises:
        SlideError: If it is a folder or empty.
        OSError: If there is no file, or it cannot be read.
    """
    try:
        if path.is_dir():
            inside = next(path.glob("*.dcm"), None)
            also = f"; for DICOM give one of its files, such as {inside.name}" if inside else ""
            raise SlideError(
                SlideCode.NOT_A_FILE,
                f"{path}: it is a folder; give the path of the slide's file in the sheet{also}",
            )
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except RuntimeError as error:  # pathlib's, of links that lead in a circle
        raise OSError(errno.ELOOP, str(error)) from None
    if not head:
        raise SlideError(SlideCode.EMPTY, f"{path}: the file is empty; copy it again")
    return head


def _code(path: Path, head: bytes) -> SlideCode:
    known = head.startswith((*TIFF_MAGIC, JPEG_MAGIC, PNG_MAGIC)) or is_dicom(head)
    if known:
        return SlideCode.TRUNCATED if _is_cut(path, head) else SlideCode.UNREADABLE
    return SlideCode.TRUNCATED if _lost_its_head(path) else SlideCode.NOT_A_SLIDE


def _no_scene(path: Path, fault: SceneError) -> SlideError:
    todo = "correct the sheet's column scene, or leave it empty for the largest"
    return SlideError(SlideCode.UNSUPPORTED, f"{path}: {fault}; {todo}")


def _code_of(fault: OpenError, path: Path, head: bytes) -> SlideCode:
    if isinstance(fault, UnsupportedError):
        return SlideCode.UNSUPPORTED
    return SlideCode.TRUNCATED if isinstance(fault, TruncatedError) else _code(path, head)


def _why_not(path: Path, head: bytes, faults: list[OpenError]) -> SlideError:
    """Say what a file is that no reader opens."""
    said = "; ".join(dict.fromkeys(str(fault) for fault in faults))
    unsupported = [fault for fault in faults if isinstance(fault, UnsupportedError)]
    size = path.stat().st_size
    if unsupported:
        return SlideError(
            SlideCode.UNSUPPORTED,
            f"{path}: {unsupported[0]}; leave it out, or convert it, if it is brightfield, to a "
            "tiled TIFF of 8-bit RGB",
        )
    torn = any(isinstance(fault, TruncatedError) for fault in faults)
    code = SlideCode.TRUNCATED if torn else _code(path, head)
    if code is SlideCode.NOT_A_SLIDE:
        return SlideError(
            code,
            f"{path}: it is no slide of a known format ({size} bytes); fix the path in the sheet, "
            "or remove the row",
        )
    if code is SlideCode.TRUNCATED:
        return SlideError(
            code, f"{path}: a part of the file is missing ({size} bytes are there); copy it again"
        )
    return SlideError(
        code,
        f"{path}: it is damaged or of an unknown kind ({said}); copy it again, or leave it out",
    )


def _is_cut(path: Path, head: bytes) -> bool:
    """Whether a TIFF's first directory lies beyond its end."""
    if not head.startswith(TIFF_MAGIC):
        return False
    order: Literal["little", "big"] = "little" if head.startswith(b"II") else "big"
    big = head[2:4] in (b"+\0", b"\0+")
    field = head[8:16] if big else head[4:8]
    offset = int.from_bytes(field, order)
    return len(field) < (8 if big else 4) or offset + 2 > path.stat().st_size


def _lost_its_head(path: Path) -> bool:
    """Whether a file without a known beginning holds compressed tiles all the same."""
    with path.open("rb") as stream:
        data = stream.read(SCAN_BYTES)
    return sum(data.count(mark) for mark in (_JPEG_TABLES, _JPEG_FRAME, _J2K_START)) >= 2
