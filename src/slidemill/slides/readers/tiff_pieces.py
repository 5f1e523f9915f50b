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
from slidemill.slides.readers.tiff_bytes import decode_bytes, is_bytes
from slidemill.slides.readers.tiff_levels import TiffLevel
from slidemill.slides.readers.tiff_tables import Tables

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

    @property
    def lost(self) -> int:
        """Stored pieces that the tables do not find, of which a general reader makes glass."""
        if self._level.raw_offset is not None:
            return 0
        return sum(
            plane.tables.lost + (0 if plane.holes_are_glass() else plane.tables.holes)
            for plane in self._planes
        )

    def _colours(self, planes: list[Piece]) -> RGB:
        pixels = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
        if self._level.ycbcr is not None:
            pixels = self._level.ycbcr.rgb_of(pixels)
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


class _Plane:
    """The pieces of one directory, or of one colour of it."""

    def __init__(self, descriptor: int, page: TiffPage, shift: int, level: TiffLevel) -> None:
        self._descriptor = descriptor
        self._page = page
        self._shift = shift
        self._level = level
        self.tables = Tables(page)
        self._jpeg_tables, self._header = page.jpegtables, page.jpegheader
        self._jpeg: JpegPieces | None = pieces_of(page, descriptor)
        self._is_bytes = is_bytes(page)
        self._is_jpeg2000 = page.compression in JPEG_2000

    def decode(self, index: int, spare: Piece | None) -> Piece | None:
        number = index + self._shift
        place = self.tables.place(number)
        if place is None:
            if self.holes_are_glass():
                return None
            raise ReadError(f"piece {number} is not in the file, which leaves none away")
        pixels = self._decode(index, place, spare)
        if pixels is not None:
            self.tables.check_shared(number, pixels)
        return pixels

    def holes_are_glass(self) -> bool:
        """See `Tables.holes_are_glass`."""
        return self.tables.holes_are_glass(lambda number: self.decode(number - self._shift, None))

    def _decode(self, index: int, place: tuple[int, int], spare: Piece | None) -> Piece | None:
        offset, count = place
        data = _read(self._descriptor, count, offset)
        if self._jpeg is not None:
            try:
                return self._jpeg.decode(data, self._sizes(index), spare)
            except OtherKindError:
                pass
        elif self._is_jpeg2000:
            jpeg2000.check(data)
        elif self._is_bytes:
            # Several planes are one colour each.
            samples = 1 if len(self._level.planes) > 1 else int(self._page.samplesperpixel)
            return decode_bytes(self._page, data, self._sizes(index), samples)
        return self._by_tifffile(data, index + self._shift)

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
                data, number, jpegtables=self._jpeg_tables, jpegheader=self._header
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
