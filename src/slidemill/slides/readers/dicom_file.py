"""What one DICOM file says of itself: its attributes, and where its frames lie."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slidemill.slides.readers.base import OpenError

if TYPE_CHECKING:
    from pydicom import Dataset

DICOM_MAGIC = b"DICM"
"""Stands behind a preamble of 128 bytes."""
HEAD_BYTES = 132
_UM_PER_MM = 1000.0
_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "PyramidUID", "ImageType", "Rows",
    "Columns", "NumberOfFrames", "TotalPixelMatrixColumns", "TotalPixelMatrixRows",
    "TotalPixelMatrixFocalPlanes", "NumberOfOpticalPaths", "OpticalPathSequence",
    "SamplesPerPixel", "BitsAllocated", "BitsStored", "PhotometricInterpretation",
    "PlanarConfiguration", "DimensionOrganizationType", "SharedFunctionalGroupsSequence",
    "PixelSpacing", "SOPInstanceUIDOfConcatenationSource", "ConcatenationUID",
    "ConcatenationFrameOffsetNumber",
]  # fmt: skip


def is_dicom(head: bytes) -> bool:
    """Whether the first bytes of a file, 132 or more, are those of a DICOM file."""
    return head[128:132] == DICOM_MAGIC


def series_uid(path: Path) -> str | None:
    """The series that a file says it is of; None of a file that is no DICOM or says none."""
    try:
        status = path.stat()
        return _series_uid(path, status.st_size, status.st_mtime_ns, status.st_ino)
    except OSError:
        return None


@lru_cache(maxsize=65_536)
def _series_uid(path: Path, _size: int, _changed: int, _inode: int) -> str | None:
    """`series_uid`, once a state of a file: folders are looked through for every slide in them."""
    with path.open("rb") as stream:
        if not is_dicom(stream.read(HEAD_BYTES)):
            return None
    try:
        with quiet():  # values are read when they are asked for
            return str(_read(path, ["SeriesInstanceUID"]).SeriesInstanceUID) or None
    except Exception:  # noqa: BLE001 - a parser on whatever lies in a folder; then it is none
        return None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom from warning of each odd value; what matters becomes an error."""
    from pydicom.config import disable_value_validation

    # It also writes to the log what it warns of when it looks at values.
    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def _read(path: Path, tags: list[str]) -> "Dataset":
    """The attributes of a file that have these names."""
    from pydicom import dcmread

    with quiet():
        return dcmread(path, stop_before_pixels=True, specific_tags=[*tags])


def attributes_of(path: Path) -> "Dataset":
    """What a file says of itself, but for its pixels and what it says of each frame."""
    found = _read(path, _TAGS)
    found.filename = path
    return found


def pixels_at(path: Path) -> int:
    """Where the pixel data of a file begin, with their tag."""
    from pydicom import dcmread

    with path.open("rb") as stream, quiet():
        dcmread(stream, stop_before_pixels=True, specific_tags=["Rows"])
        return stream.tell()


def text_of(attributes: "Dataset", name: str) -> str:
    """A text of the attributes; empty where it is absent."""
    return str(attributes.get(name) or "")


def count_of(attributes: "Dataset", name: str, default: int | None = None) -> int:
    """A whole number of the attributes.

    Raises:
        OpenError: If it is absent, without a default, or none.
    """
    value = attributes.get(name)
    if value is None and default is not None:
        return default
    try:
        return int(value)
    except (TypeError, ValueError):
        raise OpenError(f"its {name} is {value!r}") from None


def flavour_of(attributes: "Dataset") -> str:
    """What an instance shows: VOLUME, LABEL, OVERVIEW, THUMBNAIL, LOCALIZER; or empty."""
    values: Any = attributes.get("ImageType")
    values = [values] if isinstance(values, str) else list(values or [])
    return str(values[2]) if len(values) > 2 else ""


def spacing_of(one: "Dataset") -> tuple[float, float] | None:
    """Spacing of pixels in x and y, um; None where there are no two positive numbers."""
    shared = one.get("SharedFunctionalGroupsSequence") or ()
    measures = shared[0].get("PixelMeasuresSequence") if shared else None
    values: Any = (measures[0] if measures else one).get("PixelSpacing")
    try:
        # DICOM gives mm between rows first, then between columns.
        y, x = (float(value) * _UM_PER_MM for value in values)
    except (TypeError, ValueError):
        return None
    return (x, y) if 0 < x < math.inf and 0 < y < math.inf else None


def places_of(path: Path) -> tuple[tuple[int, int], ...] | None:
    """Left and top of every frame, pixels from 0; None where one does not say."""
    status = path.stat()
    return _read_places(path, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=16)
def _read_places(
    path: Path, _size: int, _changed: int, _inode: int
) -> tuple[tuple[int, int], ...] | None:
    """`_places`, once a state of a file."""
    found = _read(path, ["PerFrameFunctionalGroupsSequence"])
    places = []
    for frame in found.get("PerFrameFunctionalGroupsSequence") or ():
        position = frame.get("PlanePositionSlideSequence")
        at = position[0] if position else {}
        # DICOM counts pixels from 1.
        x = at.get("ColumnPositionInTotalImagePixelMatrix")
        y = at.get("RowPositionInTotalImagePixelMatrix")
        if x is None or y is None:
            return None
        places.append((int(x) - 1, int(y) - 1))
    return tuple(places) or None


def properties_of(one: "Dataset") -> dict[str, str]:
    """Metadata of a level, by OpenSlide's names where it has some."""
    found = {}
    spacing = spacing_of(one)
    if spacing is not None:
        found = {"dicom.PixelSpacing-x": str(spacing[0]), "dicom.PixelSpacing-y": str(spacing[1])}
    kind: Any = one.get("ImageType")
    for number, value in enumerate([kind] if isinstance(kind, str) else kind or ()):
        found[f"dicom.ImageType[{number}]"] = str(value)
    optical = one.get("OpticalPathSequence") or ()
    power = optical[0].get("ObjectiveLensPower") if optical else None
    return found | ({"openslide.objective-power": str(power)} if power is not None else {})
