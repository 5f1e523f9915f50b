"""OpenSlide: vendors' formats, DICOM, and generic tiled TIFF.

After one read that fails, an OpenSlide handle refuses all others; it is opened anew, so that one
damaged tile costs no other.
"""

import ctypes
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
from openslide import lowlevel

from slidemill.slides.bounds import stated_bounds
from slidemill.slides.readers.base import (
    RGB,
    Layout,
    OpenError,
    ReadError,
    SceneError,
    Size,
    check_size,
    faults_of,
    is_rounded,
    on_canvas,
    on_white,
)
from slidemill.slides.readers.dicom_file import HEAD_BYTES, is_dicom
from slidemill.slides.readers.dicom_series import Series, read_series, stated_scales
from slidemill.slides.readers.tiff_openslide import OwnView, confirmed_levels


class OpenSlideBackend:
    """A file opened by OpenSlide; see `Backend`."""

    name = "openslide"
    version = str(openslide.__library_version__)

    def __init__(self, path: Path, scene: str | None = None, own: OwnView | None = None) -> None:
        """Open a file.

        Args:
            path: The file.
            scene: Name of the scene to read; None for the largest.
            own: What slidemill's own reader sees in it, if it is a TIFF that it reads.

        Raises:
            UnsupportedError: If OpenSlide shows another image of the file than is asked for.
            OpenError: If OpenSlide cannot.
        """
        self._path = path
        self._take = _colours_alone if own is not None and own.has_spare_channel else _region
        self._lock = threading.Lock()
        # What is refused of DICOM is refused by its own name, and not by OpenSlide's.
        series = _series(path)
        with faults_of("OpenSlide", OpenError):
            try:
                self._handle = openslide.OpenSlide(path)
            except openslide.OpenSlideUnsupportedFormatError:
                raise OpenError("OpenSlide knows no such format") from None
            self.level_dimensions: tuple[Size, ...] = self._handle.level_dimensions
            # OpenSlide's own, by its own numbers, since `read_region` places what it reads by them.
            self.level_downsamples: tuple[float, ...] = self._handle.level_downsamples
            self.properties = _properties(self._handle)
        for size in self.level_dimensions:
            check_size(size)
        self.vendor = self.properties.get("openslide.vendor")
        self.layout = replace(
            _layout(series, self.level_dimensions),
            bounds=stated_bounds(self.properties, self.level_dimensions[0]),
        )
        self._numbers = tuple(range(len(self.level_dimensions)))
        if own is not None:
            confirmed = confirmed_levels(own.pyramid, self.level_dimensions)
            self._numbers, self.layout = confirmed.numbers, confirmed.layout
            self.level_dimensions = confirmed.dimensions
        elif scene is not None:
            raise SceneError(f"OpenSlide cannot choose a scene, such as {scene!r}")
        self.segments = tuple(self._segment(level) for level in self._numbers)

    def _segment(self, level: int) -> Size | None:
        keys = (f"openslide.level[{level}].tile-{edge}" for edge in ("width", "height"))
        found = [self.properties.get(key, "") for key in keys]
        return (int(found[0]), int(found[1])) if all(t.isdecimal() for t in found) else None

    def read_into(self, level: int, x: int, y: int, out: RGB) -> None:
        """Read a rectangle; see `Backend.read_into`."""
        own = self._numbers[level]
        downsample = self.level_downsamples[own]

        def read(left: int, top: int, right: int, bottom: int, into: RGB) -> None:
            location = (round(left * downsample), round(top * downsample))
            try:
                self._take(self._handle, location, own, into)
            except ReadError:
                # Perhaps another thread's fault: only a fresh handle of our own can tell.
                self._read_alone(location, own, into)

        on_canvas(self.level_dimensions[level], x, y, out, read)

    def _read_alone(self, location: Size, level: int, into: RGB) -> None:
        try:
            with faults_of("OpenSlide", ReadError), openslide.OpenSlide(self._path) as fresh:
                self._take(fresh, location, level, into)
        finally:
            self._reopen()

    def _reopen(self) -> None:
        with self._lock, faults_of("OpenSlide", ReadError):
            # The old handle closes itself when its last reader is done with it.
            self._handle = openslide.OpenSlide(self._path)

    def close(self) -> None:
        """Release the file."""
        self._handle.close()


def _series(path: Path) -> Series | None:
    """The series of a DICOM file; None of another."""
    with path.open("rb") as stream:
        return read_series(path) if is_dicom(stream.read(HEAD_BYTES)) else None


def _layout(series: Series | None, sizes: tuple[Size, ...]) -> Layout:
    """What DICOM says of its levels, of which OpenSlide only divides the sizes.

    Raises:
        OpenError: If OpenSlide would not show the series as it is.
    """
    if series is None:
        return Layout()
    if sizes != tuple(level.size for level in series.levels):
        raise OpenError("OpenSlide does not take all levels of the series")
    # OpenSlide puts frames row by row unless they are said to be sparse.
    if any(level.places is not None and not level.organization for level in series.levels):
        raise OpenError("OpenSlide does not ask where the frames lie")
    # OpenSlide believes the attributes.
    if any(level.says_otherwise for level in series.levels):
        raise OpenError("its frames are of other colours than its attributes say")
    stated = stated_scales(series)
    for scale, size in zip(stated, sizes, strict=True):
        # It places pixels by the quotient of sizes, and mixes neighbours where padding shifts that.
        if scale is not None and not is_rounded(sizes[0], size, scale):
            raise OpenError("OpenSlide takes the padding of its levels for pixels")
    return Layout(stated=stated, left_out=series.left_out)


def _region(handle: openslide.OpenSlide, location: Size, level: int, into: RGB) -> None:
    size = (into.shape[1], into.shape[0])
    with faults_of("OpenSlide", ReadError):
        on_white(np.asarray(handle.read_region(location, level, size)), into)


def _colours_alone(handle: openslide.OpenSlide, location: Size, level: int, into: RGB) -> None:
    """Colours as stored: OpenSlide's own pixels, before they are divided by what it calls alpha."""
    high, wide = into.shape[:2]
    buffer = (wide * high * ctypes.c_uint32)()
    with faults_of("OpenSlide", ReadError):
        lowlevel._read_region(handle._osr, buffer, *location, level, wide, high)
    words = np.frombuffer(buffer, np.uint32).reshape(high, wide)
    for channel, shift in enumerate((16, 8, 0)):
        into[..., channel] = (words >> shift) & 255


def _properties(handle: openslide.OpenSlide) -> dict[str, str]:
    """The metadata, but for entries whose bytes are no text."""
    found = {}
    for name in handle.properties:
        with suppress(KeyError, UnicodeError):
            found[str(name)] = str(handle.properties[name])
    return found
