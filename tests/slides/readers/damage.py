"""Damage to stored pieces of real slides, for the tests of what each reader makes of it."""

import shutil
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import tifffile
from pydicom.encaps import parse_fragments

from slidemill.errors import SlideCode, SlideError
from slidemill.slides.reader import Slide

ITEM_HEAD = 8
"""Bytes before the data of a DICOM fragment: its tag and its length."""
HOLE = 512
"""Bytes that are zeroed in a row."""


@dataclass(frozen=True)
class Stored:
    """A stored piece of level 0.

    Attributes:
        offset: Where it begins in the file.
        count: Its bytes.
        box: Left, top, width and height, pixels.
    """

    offset: int
    count: int
    box: tuple[int, int, int, int]


def stored_pieces(path):
    """All pieces of level 0 that are compressed on their own and lie within the slide."""
    if path.suffix == ".dcm":
        return _frames(path)
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        wide, high = page.tilewidth, page.tilelength
        across = -(-page.imagewidth // wide)
        found = zip(page.dataoffsets, page.databytecounts, strict=True)
        pieces = [
            Stored(offset, count, (n % across * wide, n // across * high, wide, high))
            for n, (offset, count) in enumerate(found)
        ]
        size = (page.imagewidth, page.imagelength)
    return _within(pieces, size)


def _frames(path):
    dataset = pydicom.dcmread(path)
    wide, high = dataset.Columns, dataset.Rows
    size = (dataset.TotalPixelMatrixColumns, dataset.TotalPixelMatrixRows)
    across = -(-size[0] // wide)
    # The elements' own length is undefined, so the data begin after the first item's tag.
    start = path.read_bytes().find(dataset.PixelData[:64])
    _, offsets = parse_fragments(dataset.PixelData)
    ends = [*offsets[1:], len(dataset.PixelData) - 1]
    pieces = [
        Stored(
            start + offset + ITEM_HEAD,
            end - offset - ITEM_HEAD,
            (n % across * wide, n // across * high, wide, high),
        )
        # The first fragment is the table of offsets.
        for n, (offset, end) in enumerate(zip(offsets[1:], ends[1:], strict=True))
    ]
    return _within(pieces, size)


def _within(pieces, size):
    return [p for p in pieces if p.box[0] + p.box[2] <= size[0] and p.box[1] + p.box[3] <= size[1]]


def zeroed(data, piece, rng):
    middle = piece.count // 2
    size = min(HOLE, piece.count // 3)
    data[middle : middle + size] = bytes(size)


def cut(data, piece, rng):
    data[piece.count * 3 // 4 :] = bytes(piece.count - piece.count * 3 // 4)


def headless(data, piece, rng):
    data[:16] = bytes(16)


def shifted(data, piece, rng):
    """As a wrong offset gives it: what begins in the middle of another piece."""
    middle = piece.count // 2
    data[:] = data[middle:] + data[:middle]


def flipped(data, piece, rng):
    """One bit of the compressed pixels."""
    at = int(rng.integers(piece.count // 4, piece.count - 16))
    data[at] ^= 1 << int(rng.integers(8))


HOLES = (zeroed, cut, headless, shifted)
KINDS = (*HOLES, flipped)


@contextmanager
def damaged(path, piece, kind, rng):
    """A file with one damaged piece; it is fixed at the end."""
    with path.open("r+b") as stream:
        stream.seek(piece.offset)
        sound = stream.read(piece.count)
        broken = bytearray(sound)
        kind(broken, piece, rng)
        stream.seek(piece.offset)
        stream.write(broken)
    try:
        yield
    finally:
        with path.open("r+b") as stream:
            stream.seek(piece.offset)
            stream.write(sound)


def outcomes(source: Path, folder: Path, reader: str, kind, count: int) -> Counter:
    """What a reader makes of `count` damages, each in a file of its own.

    Returns:
        How often it said so (`error`), gave the pixels all the same (`equal`), and gave other
        pixels without a word (`wrong`).
    """
    path = folder / source.name
    shutil.copyfile(source, path)
    pieces = stored_pieces(path)
    # What is nearly empty is no tissue, and too short to be damaged in its middle.
    pieces = sorted(pieces, key=lambda piece: piece.count)[len(pieces) // 3 :]
    rng = np.random.default_rng(0)
    found = Counter()
    with Slide(source, reader) as sound:
        for _ in range(count):
            piece = pieces[int(rng.integers(len(pieces)))]
            x, y, width, height = piece.box
            expected = sound.read(0, x, y, width, height)
            with damaged(path, piece, kind, rng), Slide(path, reader) as slide:
                try:
                    same = (slide.read(0, x, y, width, height) == expected).all()
                    found["equal" if same else "wrong"] += 1
                except SlideError as error:
                    assert error.code is SlideCode.READ_ERROR
                    found["error"] += 1
    return found
