"""Pieces of a TIFF that are rows of bytes, plain or packed: as many rows as belong there, exactly.

General decoders cut what is too long. A table or a height of strips that is damaged then gives rows
of another place.
"""

import imagecodecs
import numpy as np
from tifffile import COMPRESSION, TIFF, TiffPage

from slidemill.slides.readers.base import ReadError, Size, faults_of
from slidemill.slides.readers.cache import Piece

_BYTES = {
    COMPRESSION.NONE,
    COMPRESSION.LZW,
    COMPRESSION.ADOBE_DEFLATE,
    COMPRESSION.DEFLATE,
    COMPRESSION.PACKBITS,
    COMPRESSION.ZSTD,
}
_NO_PREDICTOR, _HORIZONTAL = 1, 2


def is_bytes(page: TiffPage) -> bool:
    """Whether the pieces of a directory are decoded here."""
    known = page.predictor in (_NO_PREDICTOR, _HORIZONTAL) and page.fillorder == 1
    return known and page.compression in _BYTES


def decode_bytes(page: TiffPage, data: bytes, sizes: tuple[Size, ...], samples: int) -> Piece:
    """Decode a piece.

    Args:
        page: Its directory.
        data: What is stored.
        sizes: Widths and heights that it may have, the whole one first.
        samples: Channels in it.

    Returns:
        (height, width, samples) uint8.

    Raises:
        ReadError: If it does not decode, or to other rows than belong there.
    """
    wide, high = sizes[0]
    with faults_of("its codec", ReadError):
        if page.compression == COMPRESSION.NONE:
            unpacked = data
        else:
            # Room for another row, so that it shows where there is one.
            room = wide * (high + 1) * samples
            unpacked = TIFF.DECOMPRESSORS[page.compression](data, out=room)
    size = next((one for one in sizes if _fits(len(unpacked), one, samples)), None)
    if size is None:
        raise ReadError(f"a piece of {len(unpacked)} bytes where {wide} x {high} pixels belong")
    flat = np.frombuffer(unpacked, np.uint8)[: size[0] * size[1] * samples]
    pixels = flat.reshape(size[1], size[0], samples)
    if page.predictor == _HORIZONTAL:
        return np.asarray(imagecodecs.delta_decode(pixels, axis=-2), np.uint8)
    return pixels


def _fits(count: int, size: Size, samples: int) -> bool:
    """Whether bytes are the rows of a size; less than a row more is a packer's last block."""
    row = size[0] * samples
    return row * size[1] <= count < row * (size[1] + 1)
