"""DICOM that OpenSlide refuses, by wsidicom.

A series of a slide is several files, one a level; those beside the given file that are of the same
series are opened with it.
"""

import warnings
from importlib.metadata import version as version_of
from pathlib import Path

import numpy as np

from slidemill.slides.readers.base import (
    RGB,
    OpenError,
    ReadError,
    Size,
    check_size,
    faults_of,
    on_canvas,
)

MAX_SIBLINGS = 500
"""Files of a folder that are looked at for further levels."""


class DicomBackend:
    """A DICOM series opened by wsidicom; see `Backend`."""

    name = "wsidicom"
    version = version_of("wsidicom")

    def __init__(self, path: Path) -> None:
        """Open a file and the other levels of its series.

        Raises:
            OpenError: If wsidicom cannot.
        """
        from wsidicom import WsiDicom

        with faults_of("wsidicom", OpenError), warnings.catch_warnings():
            # pydicom warns of each odd value; what matters becomes an error.
            warnings.simplefilter("ignore")
            self._slide = WsiDicom.open(_series(path))
            levels = list(self._slide.levels)
            self._levels = [level.level for level in levels]
            self.level_dimensions: tuple[Size, ...] = tuple(
                (int(level.size.width), int(level.size.height)) for level in levels
            )
            self.segments: tuple[Size | None, ...] = tuple(
                (int(level.tile_size.width), int(level.tile_size.height)) for level in levels
            )
            spacing = levels[0].mpp
        for size in self.level_dimensions:
            check_size(size)
        self.vendor: str | None = "dicom"
        self.properties = {
            "dicom.PixelSpacing-x": str(spacing.width),
            "dicom.PixelSpacing-y": str(spacing.height),
        }

    def read(self, level: int, x: int, y: int, width: int, height: int) -> RGB:
        """Read a rectangle; see `Backend.read`."""

        def read(left: int, top: int, right: int, bottom: int) -> RGB:
            size = (right - left, bottom - top)
            with faults_of("wsidicom", ReadError):
                region = self._slide.read_region((left, top), self._levels[level], size, threads=1)
                return np.asarray(region.convert("RGB"))

        return on_canvas(self.level_dimensions[level], x, y, width, height, read)

    def close(self) -> None:
        """Release the files."""
        self._slide.close()


def _series(path: Path) -> list[Path]:
    """The file and those beside it of the same series, sorted."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    def uid(file: Path) -> str | None:
        try:
            found = dcmread(file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        except (InvalidDicomError, OSError):
            return None
        return str(found.get("SeriesInstanceUID") or file)

    own = uid(path)
    others = sorted(path.parent.glob("*.dcm"))[:MAX_SIBLINGS]
    return sorted({path, *(other for other in others if other != path and uid(other) == own)})
