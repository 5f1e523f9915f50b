"""OpenSlide: vendors' formats, DICOM, and generic tiled TIFF.

After one read that fails, an OpenSlide handle refuses all others; it is opened anew, so that one
damaged tile costs no other.
"""

import threading
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from slidemill.slides.readers.base import (
    RGB,
    OpenError,
    ReadError,
    Size,
    check_size,
    on_canvas,
    on_white,
)

_FAULTS = (openslide.OpenSlideError, OSError, ValueError)


class OpenSlideBackend:
    """A file opened by OpenSlide; see `Backend`."""

    name = "openslide"
    version = str(openslide.__library_version__)

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            OpenError: If OpenSlide cannot.
        """
        self._path = path
        self._lock = threading.Lock()
        try:
            self._handle = openslide.OpenSlide(path)
        except openslide.OpenSlideUnsupportedFormatError:
            raise OpenError("OpenSlide knows no such format") from None
        except _FAULTS as error:
            raise OpenError(str(error)) from None
        self.level_dimensions: tuple[Size, ...] = self._handle.level_dimensions
        for size in self.level_dimensions:
            check_size(size)
        # OpenSlide's own, since `read_region` places what it reads by them.
        self.level_downsamples: tuple[float, ...] = self._handle.level_downsamples
        self.properties: dict[str, str] = dict(self._handle.properties)
        self.vendor = self.properties.get("openslide.vendor")
        self.segments = tuple(self._segment(level) for level, _ in enumerate(self.level_dimensions))

    def _segment(self, level: int) -> Size | None:
        keys = (f"openslide.level[{level}].tile-{edge}" for edge in ("width", "height"))
        found = [self.properties.get(key, "") for key in keys]
        return (int(found[0]), int(found[1])) if all(t.isdecimal() for t in found) else None

    def read(self, level: int, x: int, y: int, width: int, height: int) -> RGB:
        """Read a rectangle; see `Backend.read`."""
        downsample = self.level_downsamples[level]

        def read(left: int, top: int, right: int, bottom: int) -> RGB:
            location = (round(left * downsample), round(top * downsample))
            size = (right - left, bottom - top)
            handle = self._handle
            try:
                region = handle.read_region(location, level, size)
            except _FAULTS:
                # Perhaps another thread's fault: only a fresh handle of our own can tell.
                region = self._read_alone(location, level, size)
            return on_white(np.asarray(region))

        return on_canvas(self.level_dimensions[level], x, y, width, height, read)

    def _read_alone(self, location: Size, level: int, size: Size) -> Image.Image:
        try:
            with openslide.OpenSlide(self._path) as fresh:
                region: Image.Image = fresh.read_region(location, level, size)
                return region
        except _FAULTS as error:
            raise ReadError(str(error)) from None
        finally:
            self._reopen()

    def _reopen(self) -> None:
        with self._lock:
            try:
                # The old handle closes itself when its last reader is done with it.
                self._handle = openslide.OpenSlide(self._path)
            except _FAULTS as error:
                raise ReadError(f"the file cannot be opened again: {error}") from None

    def close(self) -> None:
        """Release the file."""
        self._handle.close()
