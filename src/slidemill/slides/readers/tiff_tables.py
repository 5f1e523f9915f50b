"""The tables of a TIFF's directory that say where its stored pieces lie, and what is damage there.

A piece without a length is glass only where the file says so: offset and count both zero, in a file
that leaves its blank pieces away. All else is a piece that is lost.
"""

from collections import Counter
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from tifffile import TiffPage

from slidemill.slides.readers.base import DamagedError, ReadError

BLOCK_BYTES = 4096
"""Of a damaged disk or copy, so much is lost at once."""
FIELD_BYTES = 4
"""The least that an entry of a table takes."""
MAX_BLANKS = 8
"""So many of the shortest pieces show whether blank ones are stored."""
SLACK_BYTES = 1
"""Writers may count a byte that only makes the next piece begin at an even place."""
FLAT = 8
"""Grey levels between the extremes of a blank piece."""


def check_count(page: TiffPage, pieces: int) -> None:
    """Check that a directory has an entry for every piece of its geometry, and no more.

    Args:
        page: The directory.
        pieces: Tiles or strips by its sizes, over all colours.

    Raises:
        DamagedError: If its tables are of another geometry.
    """
    offsets, counts = len(page.dataoffsets), len(page.databytecounts)
    if offsets != pieces or counts != pieces:
        raise DamagedError(
            f"its tables have {offsets} offsets and {counts} lengths of {pieces} pieces"
        )


def check_vendors_tables(page: TiffPage) -> None:
    """Check the tables of a vendor's tiles; OpenSlide makes glass of all without a length.

    Raises:
        DamagedError: If a table is too short, or has lost lengths.
    """
    tables = Tables(page)
    across, down = -(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength)
    if len(tables) < across * down:
        raise DamagedError(f"its tables have {len(tables)} entries of {across * down} pieces")
    # A writer may put what stands at the place of a piece that it leaves away; a piece that is
    # lost has a place of its own.
    places = Counter(tables.offsets)
    entries = zip(tables.offsets, tables.counts, strict=False)
    lost = sum(count == 0 and offset != 0 and places[offset] == 1 for offset, count in entries)
    if lost:
        raise DamagedError(f"{lost} of its {len(tables)} pieces have lost their length")


class Tables:
    """Where the pieces of a directory lie.

    Attributes:
        offsets: Where each begins in the file.
        counts: Bytes of each.
    """

    def __init__(self, page: TiffPage) -> None:
        """Look the tables up once: tifffile computes them anew at each access."""
        self.offsets = tuple(map(int, page.dataoffsets))
        self.counts = tuple(map(int, page.databytecounts))
        self._page = page
        stored = Counter(offset for offset, count in self._entries() if count)
        self._shared = {offset for offset, times in stored.items() if times > 1}
        self._crossing = _crossing(self.offsets, self.counts)
        self._is_glass: bool | None = None

    def __len__(self) -> int:
        return min(len(self.offsets), len(self.counts))

    def _entries(self) -> "zip[tuple[int, int]]":
        return zip(self.offsets, self.counts, strict=False)

    @property
    def lost(self) -> int:
        """Pieces of which one entry is zero and the other is not."""
        return sum((offset == 0) != (count == 0) for offset, count in self._entries())

    @property
    def holes(self) -> int:
        """Pieces which the file does not have."""
        return sum(offset == 0 and count == 0 for offset, count in self._entries())

    def place(self, number: int) -> tuple[int, int] | None:
        """Offset and bytes of a piece, or None where the file has none.

        Raises:
            ReadError: If its entry is damaged.
        """
        offset, count = self.offsets[number], self.counts[number]
        if offset == 0 and count == 0:
            return None
        if offset == 0 or count == 0:
            raise ReadError(f"piece {number} lies at byte {offset} and has {count} bytes")
        if number in self._crossing:
            raise ReadError(f"piece {number} and another one lie across each other")
        return offset, count

    def check_shared(self, number: int, pixels: npt.NDArray[np.uint8]) -> None:
        """Check that what several places show is blank; an offset that is repeated is damage.

        Raises:
            ReadError: If it is not.
        """
        if self.offsets[number] in self._shared and not _is_blank(pixels):
            raise ReadError(f"piece {number} lies where another one does, and is not blank")

    def holes_are_glass(self, decode: Callable[[int], npt.NDArray[np.uint8] | None]) -> bool:
        """Whether the pieces which the file does not have are blank ones that were left away.

        Aperio stores every tile; those that lack were not scanned. In other files both entries of
        a piece are lost at once only where its tables are short enough to be lost together; there
        the file must store no blank piece.

        Args:
            decode: Gives a piece by its number.
        """
        if self._is_glass is None:
            self._is_glass = self._decide(decode)
        return self._is_glass

    def _decide(self, decode: Callable[[int], npt.NDArray[np.uint8] | None]) -> bool:
        stored = sorted(n for n, count in enumerate(self.counts[: len(self)]) if count)
        if self._page.parent.is_svs or not stored:
            return False
        if len(self) * FIELD_BYTES >= BLOCK_BYTES:
            return True
        shortest = sorted(stored, key=lambda number: self.counts[number])[:MAX_BLANKS]
        return not any(_is_stored_blank(decode, number) for number in shortest)


def _crossing(offsets: tuple[int, ...], counts: tuple[int, ...]) -> frozenset[int]:
    """Pieces that begin within another one, and those in which one begins."""
    size = min(len(offsets), len(counts))
    # Damaged tables hold values beyond those of NumPy; that they leave the file is found elsewhere.
    limit = 2**62
    starts = np.array([min(offset, limit) for offset in offsets[:size]], np.int64)
    lengths = np.array([min(count, limit) for count in counts[:size]], np.int64)
    stored = np.flatnonzero((lengths > SLACK_BYTES) & (starts > 0))
    order = stored[np.lexsort((lengths[stored], starts[stored]))]
    begin, end = starts[order], starts[order] + lengths[order] - SLACK_BYTES
    # Twins, at the same place, are not meant: see `check_shared`.
    before = np.maximum.accumulate(end)[:-1] if len(end) else end
    later = np.flatnonzero((begin[1:] < before) & (begin[1:] != begin[:-1])) + 1
    # Begins that lie within a piece: more of them before its end than up to its own.
    heads = np.unique(begin)
    holding = np.searchsorted(heads, end) > np.searchsorted(heads, begin, side="right")
    found = {int(number) for number in (*order[later], *order[holding])}
    return frozenset(found)


def _is_stored_blank(decode: Callable[[int], npt.NDArray[np.uint8] | None], number: int) -> bool:
    try:
        pixels = decode(number)
    except ReadError:
        return False
    return pixels is not None and _is_blank(pixels)


def _is_blank(pixels: npt.NDArray[np.uint8]) -> bool:
    """Whether a piece has one colour, but for noise."""
    flat = pixels.reshape(-1, pixels.shape[-1])
    return bool((flat.max(axis=0).astype(int) - flat.min(axis=0)).max() <= FLAT)
