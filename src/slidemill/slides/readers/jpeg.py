"""Stored JPEG pieces of a TIFF, decoded strictly.

libjpeg goes on after most damage, warns, and hands on wrong pixels. Here a warning is a fault of
the piece, and a header that contradicts the directory is one too. What still passes is damage that
leaves a valid stream; `docs/slides.md` says how much that is.

TIFF keeps the tables that its pieces share in the directory (JPEGTables, Adobe's TIFF Technical
Note 2), and says there whether colours are stored as they are; a JPEG stream says so by the marker
APP14 (Adobe's Technical Note 5116), which is put in where the directory has to decide.
"""

import os
from dataclasses import dataclass

import numpy as np
import simplejpeg
from tifffile import COMPRESSION, PHOTOMETRIC, PLANARCONFIG, TiffPage

from slidemill.slides.readers.base import RGB, DamagedError, ReadError, Size

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
AS_STORED = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
"""APP14 of version 100 with transform 0: colours are red, green and blue as they are stored."""
JFIF, JFIF_AT = b"JFIF", 6
MAX_HEADS = 15
"""About so many pieces of a directory say what the colours of all are."""
MAX_EDGE = 65500
"""Longest edge that libjpeg reads."""
_HUFFMAN_FRAMES = (0xC0, 0xC1, 0xC2)
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA


class OtherKindError(Exception):
    """A stream of a kind that is not decoded here; it may be sound."""


@dataclass(frozen=True)
class JpegPieces:
    """How the JPEG pieces of one directory are decoded.

    Attributes:
        head: What every stream begins with, instead of its SOI.
        colour: What a piece's colours are as stored: `Gray`, `RGB` or `YCbCr`; None for what the
            stream itself says.
        samples: Channels, 1 or 3.
    """

    head: bytes
    colour: str | None
    samples: int

    def decode(self, data: bytes, sizes: tuple[Size, ...], spare: RGB | None = None) -> RGB:
        """Decode a piece; releases the interpreter's lock.

        Args:
            data: The stored stream.
            sizes: Widths and heights that the piece may have.
            spare: (H, W, 3) uint8, contiguous; the piece is decoded into it where it has that
                size, which is faster than fresh memory.

        Returns:
            (height, width, samples) uint8.

        Raises:
            ReadError: If it is damaged as far as the stream tells.
            OtherKindError: If it is of a kind that is not decoded here.
        """
        if not data.startswith(SOI):
            raise ReadError("a stored piece is no JPEG")
        # Writers may leave the end mark away; what is cut shows by the pixels that lack.
        end = b"" if data.endswith(EOI) else EOI
        stream = data if self.head == SOI and not end else b"".join((self.head, data[2:], end))
        try:
            high, wide, colour, _ = simplejpeg.decode_jpeg_header(stream)
            if (wide, high) not in sizes:
                raise ReadError(f"a piece of {wide} x {high} px where another size belongs")
            if colour not in ("Gray", "RGB", "YCbCr") or self.colour not in (None, colour):
                raise OtherKindError(colour)
            if (colour == "Gray") != (self.samples == 1):
                raise ReadError(f"a piece whose colours are {colour} for {self.samples} channels")
            shape = (high, wide, self.samples)
            fitting = spare is not None and spare.shape == shape and spare.flags.c_contiguous
            into = spare if spare is not None and fitting else np.empty(shape, np.uint8)
            simplejpeg.decode_jpeg(stream, "GRAY" if self.samples == 1 else "RGB", buffer=into)
        except ValueError as error:
            if _is_of_other_kind(stream):
                raise OtherKindError(str(error)) from None
            raise ReadError(f"libjpeg says: {error}") from None
        return into


def tables_apart(tables: bytes, samples: int, as_stored: bool) -> JpegPieces:
    """How pieces are decoded whose tables lie apart from them.

    Args:
        tables: A stream of tables only, or nothing.
        samples: Channels, 1 or 3.
        as_stored: Whether colours are red, green and blue as they are stored; else the stream says
            what they are.
    """
    inner = tables.removeprefix(SOI).removesuffix(EOI)
    if as_stored:
        return JpegPieces(SOI + inner + AS_STORED, "RGB", samples)
    return JpegPieces(SOI + inner, None, samples)


def pieces_of(page: TiffPage, descriptor: int) -> JpegPieces | None:
    """How the pieces of a directory are decoded; None where they are not, or not here.

    Args:
        page: The directory.
        descriptor: The open file.

    Raises:
        DamagedError: If they are of a size that is none.
    """
    planar = page.planarconfig == PLANARCONFIG.SEPARATE
    samples = 1 if planar else int(page.samplesperpixel)
    edge = max(page.tilewidth, page.tilelength, page.imagewidth if not page.is_tiled else 0)
    if page.compression != COMPRESSION.JPEG or page.jpegheader is not None:
        return None
    if edge > MAX_EDGE:
        raise DamagedError(
            f"its JPEG pieces claim an edge of {edge} pixels, which JPEG cannot have"
        )
    if samples not in (1, 3) or (page.extrasamples and not planar):
        return None
    # Colours are as the directory says, but where a piece is a whole file of its own (JFIF, whose
    # colours are YCbCr), it knows better.
    is_rgb = samples == 3 and page.photometric == PHOTOMETRIC.RGB
    as_stored = is_rgb and not _are_jfif(page, descriptor)
    return tables_apart(bytes(page.jpegtables or b""), samples, as_stored)


def _are_jfif(page: TiffPage, descriptor: int) -> bool:
    """Whether most pieces begin as JFIF does; the first one alone may be damaged."""
    counts = page.databytecounts
    stored = [number for number, count in enumerate(counts) if count > JFIF_AT + len(JFIF)]
    heads = [
        os.pread(descriptor, JFIF_AT + len(JFIF), page.dataoffsets[number])
        for number in stored[:: max(1, len(stored) // MAX_HEADS)]
    ]
    sound = [head for head in heads if head.startswith(SOI)]
    return 2 * sum(head[JFIF_AT:] == JFIF for head in sound) > len(sound)


def _is_of_other_kind(stream: bytes) -> bool:
    """Whether a stream's frame is lossless, arithmetic or of 12 bits."""
    at = len(SOI)
    while at + 4 < len(stream) and stream[at] == 0xFF:
        kind = stream[at + 1]
        if kind in _FRAMES:
            return kind not in _HUFFMAN_FRAMES or stream[at + 4] != 8
        if kind == _START_OF_SCAN:
            break
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return False
