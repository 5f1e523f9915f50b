"""What the colours of DICOM's JPEG frames are, by the frames themselves.

Some writers say RGB of frames that are YCbCr, since that is what a decoder made of them. The stream
knows better: a JFIF file is YCbCr by definition, colours that are stored at half the resolution are
no RGB, and Adobe's marker says which it is.
"""

from pathlib import Path
from typing import Literal

from slidemill.slides.readers.base import OpenError

JPEG = ("1.2.840.10008.1.2.4.50",)
"""Transfer syntaxes (DICOM PS3.5, annex A.4) of baseline JPEG."""
HEAD_BYTES = 65_536
"""Of the first frame, so many bytes are read at most."""
_ITEM = b"\xfe\xff\x00\xe0"
_ELEMENT_BYTES, _ITEM_BYTES = 12, 8
_SOI = b"\xff\xd8"
_FRAMES = (0xC0, 0xC1, 0xC2)
_JFIF, _ADOBE, _SCAN = 0xE0, 0xEE, 0xDA

Colour = Literal["RGB", "YCbCr"]


def first_frame(path: Path, pixels_at: int) -> bytes:
    """The beginning of the first frame of a file with encapsulated pixels.

    Args:
        path: The file.
        pixels_at: Where its pixel data begin, with their tag.

    Raises:
        OpenError: If no frame lies there.
    """
    with path.open("rb") as stream:
        stream.seek(pixels_at + _ELEMENT_BYTES)
        # First the table of offsets, which may be empty.
        table = stream.read(_ITEM_BYTES)
        stream.seek(int.from_bytes(table[4:], "little"), 1)
        item = stream.read(_ITEM_BYTES)
        if not (table.startswith(_ITEM) and item.startswith(_ITEM)):
            raise OpenError("its pixel data have no frames")
        return stream.read(min(HEAD_BYTES, int.from_bytes(item[4:], "little")))


def colour_of(stream: bytes) -> Colour | None:
    """What a JPEG stream says that its three colours are; None where it does not say."""
    if not stream.startswith(_SOI):
        return None
    at, is_jfif = len(_SOI), False
    adobe: int | None = None
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        kind = stream[at + 1]
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        body = stream[at + 4 : at + 2 + length]
        if kind == _JFIF and body.startswith(b"JFIF\0"):
            is_jfif = True
        elif kind == _ADOBE and body.startswith(b"Adobe") and len(body) >= 12:
            adobe = body[11]
        elif kind in _FRAMES:
            return _colour(body, is_jfif, adobe)
        elif kind == _SCAN:
            break
        at += 2 + length
    return None


def _colour(frame: bytes, is_jfif: bool, adobe: int | None) -> Colour | None:
    """The colours by a frame's header and the markers before it, in the order that libjpeg asks."""
    if len(frame) < 15 or frame[5] != 3:
        return None
    names, sampling = frame[6:15:3], frame[7:15:3]
    if is_jfif or len(set(sampling)) > 1:
        return "YCbCr"
    if adobe is not None:
        return "RGB" if adobe == 0 else "YCbCr"
    return "RGB" if names == b"RGB" else None
