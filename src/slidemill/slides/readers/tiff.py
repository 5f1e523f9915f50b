"""Tiled and striped TIFF, read by slidemill itself: Aperio, OME, generic, BigTIFF.

tifffile parses the directories; libjpeg, strictly, and imagecodecs decode the stored pieces; each
piece that a rectangle touches is decoded once and cut exactly. This is several times faster than
drawing the same region with a general reader, reads kinds that OpenSlide refuses (OME, stripes,
planes), and keeps memory bounded: a small cache of pieces, whatever the size of the slide.
"""

import logging
import os
from contextlib import ExitStack
from pathlib import Path

import tifffile

from slidemill.slides.readers.base import (
    RGB,
    DamagedError,
    OpenError,
    Size,
    faults_of,
)
from slidemill.slides.readers.cache import CACHE_BYTES, PieceCache
from slidemill.slides.readers.mosaic import Mosaic
from slidemill.slides.readers.tiff_pieces import LevelPieces
from slidemill.slides.readers.tiff_pyramid import find_pyramid
from slidemill.slides.readers.tiff_text import describe
from slidemill.slides.readers.tiff_whole import check_directories, check_pieces

# What it would say of a damaged file is said by our own errors, once.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


class TiffBackend:
    """A TIFF read by slidemill itself; see `Backend`."""

    name = "tiff"
    vendor: str | None
    version = tifffile.__version__

    def __init__(self, path: Path, scene: str | None = None) -> None:
        """Parse the directories of a file; no pixel is read.

        Args:
            path: The file.
            scene: Name of the scene to read; None for the largest.

        Raises:
            UnsupportedError: If it is a TIFF of a kind that is not read.
            OpenError: If it is no TIFF, or damaged.
        """
        self._cache = PieceCache(CACHE_BYTES)
        with ExitStack() as opened:
            with faults_of("its directory is damaged: tifffile", OpenError):
                self._file = opened.enter_context(tifffile.TiffFile(path))
                if not self._file.is_ndpi:  # NDPI beyond 4 GB has offsets of its own kind
                    check_directories(path)
                self._descriptor = os.open(path, os.O_RDONLY)
                opened.callback(os.close, self._descriptor)
                size = path.stat().st_size
                pyramid = find_pyramid(self._file, self._descriptor, size, scene)
                levels = pyramid.levels
                for page in {page for level in levels for page, _ in level.planes}:
                    check_pieces(page, size)
                ome = pyramid.ome.properties if pyramid.ome is not None else {}
                first = levels[0].planes[0][0]
                self.vendor, self.properties = describe(self._file, first, ome)
                self._pieces = [LevelPieces(self._descriptor, level) for level in levels]
            # Nothing failed: the file stays open until `close`.
            opened.pop_all()
        self.pyramid, self.layout = pyramid, pyramid.layout
        self.has_spare_channel = any(
            level.alpha == "none" and level.planes[0][0].samplesperpixel == 4 for level in levels
        )
        self._mosaics = [
            Mosaic(number, level.size, level.segment, pieces.decode, self._cache)
            for number, (level, pieces) in enumerate(zip(levels, self._pieces, strict=True))
        ]
        self.level_dimensions: tuple[Size, ...] = tuple(level.size for level in levels)
        self.segments: tuple[Size | None, ...] = tuple(level.segment for level in levels)

    def check_for_others(self) -> None:
        """Refuse what another reader of the same file would make glass of.

        Raises:
            DamagedError: If stored pieces are lost.
        """
        lost = sum(pieces.lost for pieces in self._pieces)
        if lost:
            raise DamagedError(
                f"{lost} of its pieces are lost, which only the reader tiff tells from glass"
            )

    def read_into(self, level: int, x: int, y: int, out: RGB) -> None:
        """Read a rectangle; see `Backend.read_into`."""
        self._mosaics[level].read_into(x, y, out)

    def close(self) -> None:
        """Release the file."""
        self._file.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._cache.clear()
