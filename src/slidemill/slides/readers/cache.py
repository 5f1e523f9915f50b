"""Decoded pieces that are kept, in bounded memory, for the threads that read a slide.

A piece that several threads want at once is decoded by the first of them, and the others wait for
it. The memory of a piece that goes is used again for the next: fresh memory costs a tenth of the
decoding, since the system clears it page by page.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np
import numpy.typing as npt

Piece = npt.NDArray[np.uint8]
Decode = Callable[[Piece | None], Piece | None]
"""Gives a piece, into the spare memory where that fits; None where the file has none."""

CACHE_BYTES = 32 * 2**20
"""Pieces of one slide that are kept, bytes; a band of tiles across 20,000 pixels."""
MAX_SPARES = 4
"""Pieces whose memory waits for the next; about the threads that decode at once."""


class Kept:
    """A piece in use; its lock is held until it is decoded.

    Attributes:
        piece: The pixels, or None where the file has none.
    """

    __slots__ = ("fault", "lock", "piece", "users")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()
        self.piece: Piece | None = None
        self.fault: BaseException | None = None
        self.users = 1


class PieceCache:
    """Pieces by key; the one that was not used for the longest time goes first.

    Attributes:
        kept_bytes: Size of what is kept.
    """

    def __init__(self, limit: int) -> None:
        """Make an empty cache.

        Args:
            limit: Bytes that are kept at most; a piece that is larger is kept alone.
        """
        self.kept_bytes = 0
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()
        self._spares: list[Piece] = []

    def take(self, key: Hashable, decode: Decode) -> Kept:
        """Take a piece, to be given back by `release` when its pixels are no longer looked at.

        Args:
            key: Which piece.
            decode: Gives it, where it is not kept. If it raises, nothing is kept, and all who wait
                for the piece get the same error.
        """
        spare = None
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                kept.users += 1
                self._kept.move_to_end(key)
            else:
                mine = self._kept[key] = Kept()
                if self._spares:
                    spare = self._spares.pop()
        if kept is None:
            self._fill(key, mine, decode, spare)
            return mine
        if kept.lock.locked():
            with kept.lock:
                pass
        if kept.fault is not None:
            raise kept.fault
        return kept

    def release(self, kept: Kept) -> None:
        """Give a piece back; its memory may hold another one from now on."""
        with self._lock:
            kept.users -= 1

    def clear(self) -> None:
        """Forget all pieces."""
        with self._lock:
            self._kept.clear()
            self._spares.clear()
            self.kept_bytes = 0

    def _fill(self, key: Hashable, kept: Kept, decode: Decode, spare: Piece | None) -> None:
        try:
            kept.piece = decode(spare)
        except BaseException as error:
            kept.fault = error
            raise
        finally:
            with self._lock:
                if self._kept.get(key) is kept:
                    if kept.piece is None:
                        del self._kept[key]
                    else:
                        self.kept_bytes += kept.piece.nbytes
                        self._make_room()
            kept.lock.release()

    def _make_room(self) -> None:
        """Let the oldest pieces go; the memory of those that nobody looks at is for others."""
        while self.kept_bytes > self._limit and len(self._kept) > 1:
            _, old = self._kept.popitem(last=False)
            if old.piece is None:
                continue
            self.kept_bytes -= old.piece.nbytes
            is_free = old.users == 0 and old.piece.flags.writeable
            if is_free and len(self._spares) < MAX_SPARES:
                self._spares.append(old.piece)
