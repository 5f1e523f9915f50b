"""Whether a TIFF is all there: its chain of directories, and the pieces that they point to.

A torn copy often opens, with its last levels or the lower half of its pixels gone; nothing computed
from it could be trusted.
"""

from operator import add
from pathlib import Path
from typing import BinaryIO, Literal

from tifffile import TiffPage

from slidemill.slides.readers.base import TruncatedError

MAX_DIRECTORIES = 4096
"""Longer chains of directories run in a circle."""


def check_directories(path: Path) -> None:
    """Walk the chain of directories to its end.

    Raises:
        TruncatedError: If it leaves the file.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(16)
        order: Literal["little", "big"] = "little" if head.startswith(b"II") else "big"
        is_big = head[2:4] in (b"+\0", b"\0+")
        entry, field = (20, 8) if is_big else (12, 4)
        offset = int.from_bytes(head[8:16] if is_big else head[4:8], order)
        for _ in range(MAX_DIRECTORIES):
            if offset == 0:
                return
            count = _number(stream, offset, 8 if is_big else 2, order, size)
            after = offset + (8 if is_big else 2) + count * entry
            offset = _number(stream, after, field, order, size)


def _number(
    stream: BinaryIO, offset: int, length: int, order: Literal["little", "big"], size: int
) -> int:
    if offset + length > size:
        raise TruncatedError(f"a directory lies at byte {offset} of {size}")
    stream.seek(offset)
    return int.from_bytes(stream.read(length), order)


def check_pieces(page: TiffPage, size: int) -> None:
    """Check that every stored piece of a directory lies in the file.

    Args:
        page: The directory.
        size: Length of the file, bytes.

    Raises:
        TruncatedError: If one does not.
    """
    # Python's whole numbers: damaged tables hold values that overflow those of NumPy.
    if max(map(add, page.dataoffsets, page.databytecounts), default=0) <= size:
        return
    pieces = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    beyond = sum(offset + count > size for offset, count in pieces if count)
    if beyond:
        raise TruncatedError(f"{beyond} of {len(pieces)} stored pieces lie beyond its end")
