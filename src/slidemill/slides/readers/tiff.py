"""Tiled and striped TIFF, read by slidemill itself: Aperio, OME, generic, BigTIFF.

tifffile parses the directories and imagecodecs decodes the stored pieces; each piece that a
rectangle touches is decoded once and cut exactly. This is several times faster than drawing the
same region with a general reader, reads kinds that OpenSlide refuses (OME, stripes, planes), and
keeps memory bounded: a small cache of pieces, whatever the size of the slide.
"""

import logging
import os
import threading
from collections import OrderedDict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from tifffile import TiffPage

from slidemill.slides.readers import tiff_levels
from slidemill.slides.readers.base import (
    RGB,
    OpenError,
    ReadError,
    Size,
    faults_of,
    on_canvas,
    on_white,
)
from slidemill.slides.readers.tiff_whole import check_directories, check_pieces

CACHE_BYTES = 32 * 2**20
"""Decoded pieces that are kept, bytes."""

Piece = npt.NDArray[np.uint8]

# What it would say of a damaged file is said by our own errors, once.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


class TiffBackend:
    """A TIFF read by slidemill itself; see `Backend`."""

    name = "tiff"
    vendor: str | None
    version = tifffile.__version__

    def __init__(self, path: Path) -> None:
        """Parse the directories of a file; no pixel is read.

        Raises:
            UnsupportedError: If it is a TIFF of a kind that is not read.
            OpenError: If it is no TIFF, or damaged.
        """
        with ExitStack() as opened:
            with faults_of("its directory is damaged: tifffile", OpenError):
                self._file = opened.enter_context(tifffile.TiffFile(path))
                if not self._file.is_ndpi:  # NDPI beyond 4 GB has offsets of its own kind
                    check_directories(path)
                self._levels = tiff_levels.find_levels(self._file)
                for page in {page for level in self._levels for page, _ in level.planes}:
                    check_pieces(page, path.stat().st_size)
                self.vendor, self.properties = tiff_levels.describe(self._file)
            # Nothing failed: the file stays open until `close`.
            opened.pop_all()
        self.level_dimensions: tuple[Size, ...] = tuple(level.size for level in self._levels)
        self.segments: tuple[Size | None, ...] = tuple(level.segment for level in self._levels)
        self._descriptor = os.open(path, os.O_RDONLY)
        self._cache: OrderedDict[tuple[int, int], Piece | None] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()

    def read(self, level: int, x: int, y: int, width: int, height: int) -> RGB:
        """Read a rectangle; see `Backend.read`."""
        found = self._levels[level]
        wide, high = found.segment

        def read(left: int, top: int, right: int, bottom: int) -> RGB:
            result = np.full((bottom - top, right - left, 3), 255, np.uint8)
            for row in range(top // high, -(-bottom // high)):
                for column in range(left // wide, -(-right // wide)):
                    piece = self._piece(level, row * found.across + column)
                    if piece is None:
                        continue
                    x0, y0 = column * wide, row * high
                    a, b = max(left, x0), max(top, y0)
                    c, d = min(right, x0 + piece.shape[1]), min(bottom, y0 + piece.shape[0])
                    cut = piece[b - y0 : d - y0, a - x0 : c - x0]
                    result[b - top : d - top, a - left : c - left] = cut
            return result

        return on_canvas(found.size, x, y, width, height, read)

    def _piece(self, level: int, index: int) -> Piece | None:
        """A stored piece as RGB, or None where the file has none (white)."""
        key = (level, index)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        piece = self._decode(level, index)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = piece
                self._cached_bytes += 0 if piece is None else piece.nbytes
            while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
                _, old = self._cache.popitem(last=False)
                self._cached_bytes -= 0 if old is None else old.nbytes
        return piece

    def _decode(self, level: int, index: int) -> Piece | None:
        found = self._levels[level]
        planes = (
            [self._plane(page, index + shift) for page, shift in found.planes]
            if found.raw_offset is None
            else [self._rows(found, found.raw_offset, index)]
        )
        if all(plane is None for plane in planes):
            return None
        if any(plane is None for plane in planes):
            raise ReadError(f"piece {index} lacks a colour")
        full = [plane for plane in planes if plane is not None]
        pixels = full[0] if len(full) == 1 else np.concatenate(full, axis=2)
        if found.inverted:
            pixels = 255 - pixels
        if pixels.shape[2] == 1:
            return np.repeat(pixels, 3, axis=2)
        if pixels.shape[2] == 4 and found.alpha:
            return on_white(pixels)
        return pixels[..., :3]

    def _rows(self, level: tiff_levels.TiffLevel, start: int, index: int) -> Piece:
        """Rows that are stored as they are."""
        width, high = level.segment
        rows = min(high, level.size[1] - index * high)
        samples = level.planes[0][0].samplesperpixel
        row_bytes = width * samples
        data = os.pread(self._descriptor, rows * row_bytes, start + index * high * row_bytes)
        if len(data) < rows * row_bytes:
            raise ReadError("the file ends before its pixels do")
        return np.frombuffer(data, np.uint8).reshape(rows, width, samples)

    def _plane(self, page: TiffPage, index: int) -> Piece | None:
        offset, count = int(page.dataoffsets[index]), int(page.databytecounts[index])
        if count == 0:
            return None
        data = os.pread(self._descriptor, count, offset)
        if len(data) < count:
            raise ReadError("the file ends before its pixels do")
        with faults_of("its codec", ReadError):
            decoded: Any = page.decode(
                data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader
            )[0]
        if decoded is None:
            return None
        pixels: Piece = np.asarray(decoded)
        if pixels.dtype != np.uint8 or pixels.ndim != 4:
            raise ReadError(f"a piece of {pixels.dtype} {pixels.shape}")
        plane: Piece = pixels[0]
        return plane

    def close(self) -> None:
        """Release the file."""
        self._file.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._cache.clear()
