"""PNG and JPEG: regions of interest, read whole.

An image has one level and, since its dpi is what a program assumed, no resolution.
"""

from pathlib import Path

import numpy as np
import PIL
from PIL import Image, JpegImagePlugin, PngImagePlugin

from slidemill.slides.readers.base import (
    RGB,
    Layout,
    OpenError,
    ReadError,
    Size,
    UnsupportedError,
    faults_of,
    on_canvas,
    on_white,
)

PNG_HEAD = b"\x89PNG\r\n\x1a\n"
PNG_BITS_AT = 24
"""Where the bits of a channel stand in a PNG (ISO/IEC 15948, IHDR)."""
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA"}
"""Modes of Pillow that are grey or red, green and blue, in 8 bits."""
MAX_PIXELS = 400_000_000
"""Larger images are refused: they are held in memory whole (3 bytes a pixel)."""


class ImageBackend:
    """A PNG or JPEG; see `Backend`."""

    name = "image"
    version = PIL.__version__

    def __init__(self, path: Path) -> None:
        """Open an image; its pixels are decoded when they are first read.

        Raises:
            OpenError: If it is no PNG or JPEG, or too large.
        """
        with faults_of("Pillow", OpenError):
            self._image = _opened(path)
        bits = _bits(path)
        if bits > 8:
            raise UnsupportedError(f"its pixels have {bits} bits a channel, not 8")
        if self._image.mode not in _MODES:
            raise UnsupportedError(f"its colours are {self._image.mode}, not RGB or grey")
        size = self._image.size
        if size[0] * size[1] > MAX_PIXELS:
            raise OpenError(
                f"{size[0]} x {size[1]} pixels are too many for an image; save it as a tiled TIFF"
            )
        self.vendor: str | None = str(self._image.format).lower()
        self.level_dimensions: tuple[Size, ...] = (size,)
        self.segments: tuple[Size | None, ...] = (None,)
        self.properties: dict[str, str] = {}
        self.layout = Layout()
        self._pixels: RGB | None = None

    def read_into(self, level: int, x: int, y: int, out: RGB) -> None:
        """Read a rectangle; see `Backend.read_into`."""
        assert level == 0
        pixels = self._pixels if self._pixels is not None else self._decode()

        def read(left: int, top: int, right: int, bottom: int, into: RGB) -> None:
            into[...] = pixels[top:bottom, left:right]

        on_canvas(self.level_dimensions[0], x, y, out, read)

    def _decode(self) -> RGB:
        with faults_of("Pillow", ReadError):
            self._pixels = on_white(np.asarray(self._image.convert("RGBA")))
        return self._pixels

    def close(self) -> None:
        """Release the file."""
        self._image.close()


def _opened(path: Path) -> Image.Image:
    """An image by its own class: `Image.open` refuses what is large by a limit of its own."""
    with path.open("rb") as stream:
        is_png = stream.read(len(PNG_HEAD)) == PNG_HEAD
    return (PngImagePlugin.PngImageFile if is_png else JpegImagePlugin.JpegImageFile)(path)


def _bits(path: Path) -> int:
    """Bits of a channel as a PNG's first chunk says; Pillow drops half of 16 without a word."""
    with path.open("rb") as stream:
        head = stream.read(PNG_BITS_AT + 1)
    return head[PNG_BITS_AT] if head.startswith(PNG_HEAD) and len(head) > PNG_BITS_AT else 8
