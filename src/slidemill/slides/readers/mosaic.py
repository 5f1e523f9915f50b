"""A level as a mosaic of stored pieces: each is decoded once, and rectangles are cut from them."""

from collections.abc import Callable
from functools import partial

from slidemill.slides.readers.base import RGB, ReadError, Size, on_canvas
from slidemill.slides.readers.cache import Piece, PieceCache


class Mosaic:
    """A level whose pieces lie row by row."""

    def __init__(
        self,
        number: int,
        size: Size,
        segment: Size,
        decode: Callable[[int, Piece | None], RGB | None],
        cache: PieceCache,
    ) -> None:
        """Describe a level.

        Args:
            number: Which level of its file it is.
            size: Width and height, pixels.
            segment: Width and height of its pieces; those at the edges may be cut.
            decode: Gives a piece by its index as RGB, into the memory that it is given where that
                fits; None where the file has none (white). May raise ReadError.
            cache: Keeps pieces of all levels of the file.
        """
        self._number = number
        self._size = size
        self._segment = segment
        self._across = -(-size[0] // segment[0])
        self._decode = decode
        self._cache = cache

    def read_into(self, x: int, y: int, out: RGB) -> None:
        """Read a rectangle; see `Backend.read_into`."""
        on_canvas(self._size, x, y, out, self._within)

    def _within(self, left: int, top: int, right: int, bottom: int, into: RGB) -> None:
        wide, high = self._segment
        for row in range(top // high, -(-bottom // high)):
            for column in range(left // wide, -(-right // wide)):
                x0, y0 = column * wide, row * high
                a, b = max(left, x0), max(top, y0)
                c, d = min(right, x0 + wide), min(bottom, y0 + high)
                place = into[b - top : d - top, a - left : c - left]
                self._cut(row * self._across + column, a - x0, b - y0, place)

    def _cut(self, index: int, x: int, y: int, place: RGB) -> None:
        """Copy a part of a piece."""
        kept = self._cache.take((self._number, index), partial(self._decode, index))
        try:
            height, width = place.shape[:2]
            piece = kept.piece
            if piece is None:
                place[...] = 255
            elif y + height > piece.shape[0] or x + width > piece.shape[1]:
                raise ReadError(f"piece {index} is too small")
            else:
                place[...] = piece[y : y + height, x : x + width]
        finally:
            self._cache.release(kept)
