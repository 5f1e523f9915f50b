"""Whether a stored JPEG 2000 piece is all there.

Decoders of JPEG 2000 take what they have: of a stream that is cut, or that has a hole of zeros as a
lost block of a disk leaves it, they make a blurred picture without a word, since a zero byte is an
empty packet. Both show in the stream itself (ISO/IEC 15444-1, annex A): every tile-part says how
long it is and ends where the next marker stands, and there are not more empty packets in a row than
there are packets.
"""

import math
from dataclasses import dataclass

from slidemill.slides.readers.base import ReadError, faults_of

START = b"\xff\x4f\xff\x51"
_SIZ, _COD, _SOT, _EOC = 0xFF51, 0xFF52, 0xFF90, 0xFFD9
_BYPASS = 0x01
"""Code-block style in which bits are stored raw, and may well be zeros."""
SLACK = 16
"""Zero bytes in a row beyond the empty packets and blocks; entropy-coded data has 3 or 4."""


@dataclass
class _Header:
    """What the main header says.

    Attributes:
        tile: Width and height of its own tiles, pixels.
        channels: Number of channels.
        layers: Layers of quality.
        precincts: Width and height of the parts of each resolution, coarsest first, samples.
        block: Samples of a code-block.
        is_raw: Whether some bits are stored without coding.
    """

    tile: tuple[int, int] = (0, 0)
    channels: int = 0
    layers: int = 0
    precincts: tuple[tuple[int, int], ...] = ()
    block: int = 1
    is_raw: bool = False

    def longest_gap(self) -> int | None:
        """Zero bytes in a row that a sound stream may have; None where that is not known."""
        if self.is_raw or not self.precincts:
            return None
        parts = 0
        for halvings, precinct in enumerate(reversed(self.precincts)):
            across, down = (
                math.ceil(edge / 2**halvings / part)
                for edge, part in zip(self.tile, precinct, strict=True)
            )
            parts += across * down
        packets = self.layers * self.channels * parts
        # The header of a packet says of every block of pixels whether it is in it.
        blocks = self.channels * math.ceil(math.prod(self.tile) / self.block) * 4 // 3
        return packets + blocks + SLACK


def check(data: bytes) -> None:
    """Check that a stream has no hole and no end but its own.

    Args:
        data: A codestream, bare or in a JP2 file.

    Raises:
        ReadError: If it has.
    """
    start = data.find(START)
    if start < 0:
        raise ReadError("a stored piece is no JPEG 2000")
    with faults_of("its JPEG 2000 header is damaged:", ReadError):
        header, at = _main_header(data, start + 2)
    first = at
    while _number(data, at, 2) == _SOT:
        length = _number(data, at + 6, 4)
        if length == 0:  # the last one may leave it open
            at = data.rfind(b"\xff\xd9", at)
            break
        at += length
    if at < 0 or _number(data, at, 2) != _EOC:
        raise ReadError("a stored piece is cut or has lost its end")
    gap = header.longest_gap()
    if gap is not None and gap < len(data) and data.find(bytes(gap + 1), first) >= 0:
        raise ReadError("a stored piece has a hole of zeros")


def _main_header(data: bytes, at: int) -> tuple[_Header, int]:
    """Read the main header; also where the first tile-part begins."""
    found = _Header()
    while (marker := _number(data, at, 2)) != _SOT:
        if marker < 0xFF00:
            raise ReadError("a stored piece has a damaged header")
        body = at + 4
        if marker == _SIZ:
            wide, high = _number(data, body + 2, 4), _number(data, body + 6, 4)
            tile = _number(data, body + 18, 4), _number(data, body + 22, 4)
            found.tile = (min(wide, tile[0]), min(high, tile[1]))
            found.channels = _number(data, body + 34, 2)
        elif marker == _COD:
            found.layers = _number(data, body + 2, 2)
            count = data[body + 5] + 1
            sizes = data[body + 10 : body + 10 + count] if data[body] & 1 else b"\xff" * count
            found.precincts = tuple((2 ** (size & 15), 2 ** (size >> 4)) for size in sizes)
            found.block = 2 ** (data[body + 6] + 2 + data[body + 7] + 2)
            found.is_raw = bool(data[body + 8] & _BYPASS)
        at += 2 + _number(data, at + 2, 2)
    return found, at


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")
