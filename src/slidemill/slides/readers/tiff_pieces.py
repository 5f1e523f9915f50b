"""Decoding the stored pieces (tiles, strips) of a TIFF's levels to RGB."""

import os
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from tifffile import COMPRESSION, TiffPage

from slidemill.slides.readers import jpeg2000
from slidemill.slides.readers.base import RGB, ReadError, Size, faults_of, on_white
from slidemill.slides.readers.cache import Piece
from slidemill.slides.readers.jpeg import JpegPieces, OtherKindError, pieces_of
from slidemill.slides.readers.tiff_levels import TiffLevel

JPEG_2000 = (
    COMPRESSION.APERIO_JP2000_YCBC,
    COMPRESSION.APERIO_JP2000_RGB,
    COMPRESSION.JPEG2000,
)


class LevelPieces:
    """The stored pieces of one level."""

    def __init__(self, descriptor: int, level: TiffLevel) -> None:
        """Prepare a level; nothing is read.

        Args:
            descriptor: The open file.
            level: The level.
        """
        self._descriptor = descriptor
        self._level = level
        self._planes = [_Plane(descriptor, page, shift, level) for page, shift in level.planes]

    def decode(self, index: int, spare: Piece | None = None) -> RGB | None:
        """A piece as RGB, or None where the file has none (white).

        Args:
            index: Its number, row by row.
            spare: Memory that may be used for it.

        Raises:
            ReadError: If it does not decode.
        """
        level = self._level
        if level.raw_offset is not None:
            return self._colours([self._rows(level.raw_offset, index)])
        planes = [plane.decode(index, spare) for plane in self._planes]
        if all(plane is None for plane in planes):
            return None
        if any(plane is None for plane in planes):
            raise ReadError(f"piece {index} lacks a colour")
        return self._colours([plane for plane in planes if plane is not None])

    def _colours(self, planes: list[Piece]) -> RGB:
        pixels = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
        if self._level.is_ycbcr:
            pixels = _rgb_of(pixels)
        if self._level.inverted:
            pixels = 255 - pixels
        if pixels.shape[2] == 1:
            return np.repeat(pixels, 3, axis=2)
        if pixels.shape[2] == 4:
            if self._level.alpha == "straight":
                return on_white(pixels)
            if self._level.alpha == "premultiplied":
                # Colours are multiplied already: white shows through what is left.
                rest = np.repeat(255 - pixels[..., 3:], 3, axis=2)
                return np.asarray(cv2.add(pixels[..., :3], rest), np.uint8)
            return np.ascontiguousarray(pixels[..., :3])
        return pixels

    def _rows(self, start: int, index: int) -> Piece:
        """Rows that are stored as they are."""
        width, high = self._level.segment
        rows = min(high, self._level.size[1] - index * high)
        samples = self._level.planes[0][0].samplesperpixel
        row_bytes = width * samples
        data = _read(self._descriptor, rows * row_bytes, start + index * high * row_bytes)
        return np.frombuffer(data, np.uint8).reshape(rows, width, samples)


def _rgb_of(ycbcr: Piece) -> Piece:
    """Luma and chroma of the full range as red, green and blue (ITU-R BT.601, as in TIFF 6.0)."""
    ordered = np.ascontiguousarray(ycbcr[..., [0, 2, 1]])
    return np.asarray(cv2.cvtColor(ordered, cv2.COLOR_YCrCb2RGB), np.uint8)


class _Plane:
    """The pieces of one directory, or of one colour of it."""

    def __init__(self, descriptor: int, page: TiffPage, shift: int, level: TiffLevel) -> None:
        self._descriptor = descriptor
        self._page = page
        self._shift = shift
        self._level = level
        # Looked up once: these are computed anew at each access.
        self._offsets, self._counts = page.dataoffsets, page.databytecounts
        self._tables, self._header = page.jpegtables, page.jpegheader
        self._jpeg: JpegPieces | None = pieces_of(page, descriptor)
        self._is_jpeg2000 = page.compression in JPEG_2000

    def decode(self, index: int, spare: Piece | None) -> Piece | None:
        number = index + self._shift
        offset, count = int(self._offsets[number]), int(self._counts[number])
        if count == 0 and offset == 0:
            return None
        if count == 0:
            raise ReadError(f"piece {number} lies at byte {offset} and has no length")
        data = _read(self._descriptor, count, offset)
        if self._jpeg is not None:
            try:
                return self._jpeg.decode(data, self._sizes(index), spare)
            except OtherKindError:
                pass
        elif self._is_jpeg2000:
            jpeg2000.check(data)
        return self._by_tifffile(data, number)

    def _sizes(self, index: int) -> tuple[Size, ...]:
        """Sizes that a piece may have: all of them alike, or cut at the edge of the level."""
        wide, high = self._level.segment
        row, column = divmod(index, self._level.across)
        left, below = self._level.size[0] - column * wide, self._level.size[1] - row * high
        if left >= wide and below >= high:
            return ((wide, high),)
        return ((wide, high), (min(wide, left), min(high, below)), (wide, min(high, below)))

    def _by_tifffile(self, data: bytes, number: int) -> Piece | None:
        with faults_of("its codec", ReadError):
            decoded: Any = self._page.decode(
                data, number, jpegtables=self._tables, jpegheader=self._header
            )[0]
        if decoded is None:
            return None
        pixels: npt.NDArray[Any] = np.asarray(decoded)
        if pixels.dtype != np.uint8 or pixels.ndim != 4:
            raise ReadError(f"a piece of {pixels.dtype} {pixels.shape}")
        plane: Piece = pixels[0]
        return plane


def _read(descriptor: int, count: int, offset: int) -> bytes:
    data = os.pread(descriptor, count, offset)
    if len(data) < count:
        raise ReadError("the file ends before its pixels do")
    return data
