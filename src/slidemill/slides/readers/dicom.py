"""DICOM in JPEG 2000, and what OpenSlide refuses of DICOM, by wsidicom.

A series of a slide is several files, one a level; those beside the given file that are of the same
series are opened with it. wsidicom finds the stored tiles; those in JPEG and JPEG 2000 are decoded
here, as strictly as those of TIFF, since it hands on what its codecs make of damage.
"""

import warnings
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np

from slidemill.slides.readers import jpeg2000
from slidemill.slides.readers.base import (
    RGB,
    Layout,
    OpenError,
    ReadError,
    Size,
    check_size,
    faults_of,
    on_canvas,
)
from slidemill.slides.readers.cache import CACHE_BYTES, Piece, PieceCache
from slidemill.slides.readers.jpeg import JpegPieces, OtherKindError, tables_apart
from slidemill.slides.readers.mosaic import Mosaic

if TYPE_CHECKING:
    from wsidicom.image_data import ImageData

JPEG = ("1.2.840.10008.1.2.4.50",)
"""Transfer syntaxes (DICOM PS3.5, annex A.4) of baseline JPEG."""
JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
MAX_SIBLINGS = 500
"""Files of a folder that are looked at for further levels."""


class DicomBackend:
    """A DICOM series opened by wsidicom; see `Backend`."""

    name = "wsidicom"
    version = version_of("wsidicom")

    def __init__(self, path: Path) -> None:
        """Open a file and the other levels of its series.

        Raises:
            OpenError: If wsidicom cannot.
        """
        from wsidicom import WsiDicom

        with faults_of("wsidicom", OpenError), warnings.catch_warnings():
            # pydicom warns of each odd value; what matters becomes an error.
            warnings.simplefilter("ignore")
            self._slide = WsiDicom.open(_series(path))
            levels = list(self._slide.levels)
            self._levels = [level.level for level in levels]
            self.level_dimensions: tuple[Size, ...] = tuple(
                (int(level.size.width), int(level.size.height)) for level in levels
            )
            self.segments: tuple[Size | None, ...] = tuple(
                (int(level.tile_size.width), int(level.tile_size.height)) for level in levels
            )
            spacing = levels[0].mpp
            images = [level.default_instance.image_data for level in levels]
            decoders = [_decoder(image) for image in images]
        for size in self.level_dimensions:
            check_size(size)
        self._cache = PieceCache(CACHE_BYTES)
        self._mosaics = [
            None if decoder is None else self._mosaic(number, decoder)
            for number, decoder in enumerate(decoders)
        ]
        self.vendor: str | None = "dicom"
        self.layout = Layout()
        self.properties = {
            "dicom.PixelSpacing-x": str(spacing.width),
            "dicom.PixelSpacing-y": str(spacing.height),
        }

    def _mosaic(self, number: int, decoder: "_Decoder") -> Mosaic | None:
        segment = self.segments[number]
        if segment is None or min(segment) <= 0:
            return None
        size = self.level_dimensions[number]
        across = -(-size[0] // segment[0])

        def decode(index: int, spare: Piece | None) -> RGB:
            row, column = divmod(index, across)
            with faults_of("wsidicom", ReadError):
                data = self._slide.read_encoded_tile(
                    self._levels[number], (column, row), crop_to_image_boundary=False
                )
                return decoder.decode(bytes(data), segment, spare)

        return Mosaic(number, size, segment, decode, self._cache)

    def read_into(self, level: int, x: int, y: int, out: RGB) -> None:
        """Read a rectangle; see `Backend.read_into`."""
        mosaic = self._mosaics[level]
        if mosaic is not None:
            mosaic.read_into(x, y, out)
            return

        def read(left: int, top: int, right: int, bottom: int, into: RGB) -> None:
            size = (right - left, bottom - top)
            with faults_of("wsidicom", ReadError):
                region = self._slide.read_region((left, top), self._levels[level], size, threads=1)
                into[...] = np.asarray(region.convert("RGB"))

        on_canvas(self.level_dimensions[level], x, y, out, read)

    def close(self) -> None:
        """Release the files."""
        self._slide.close()
        self._cache.clear()


class _Decoder:
    """Decodes the stored tiles of a level; `jpeg` is None for JPEG 2000."""

    def __init__(self, jpeg: JpegPieces | None) -> None:
        self._jpeg = jpeg

    def decode(self, data: bytes, segment: Size, spare: Piece | None) -> RGB:
        if self._jpeg is not None:
            try:
                # Tiles have an even number of bytes: the last may be none of the stream's.
                return self._jpeg.decode(data, (segment,), spare)
            except OtherKindError as error:
                raise ReadError(f"a tile of another kind than its series: {error}") from None
        jpeg2000.check(data)
        pixels: RGB = np.asarray(imagecodecs.jpeg2k_decode(data))
        if pixels.shape != (segment[1], segment[0], 3) or pixels.dtype != np.uint8:
            raise ReadError(f"a tile of {pixels.dtype} {pixels.shape}")
        return pixels


def _decoder(image: "ImageData") -> _Decoder | None:
    """The decoder of a level's tiles; None where wsidicom decodes them."""
    if image.samples_per_pixel != 3 or image.bits != 8:
        return None
    photometric = str(image.photometric_interpretation)
    if image.transfer_syntax in JPEG:
        return _Decoder(tables_apart(b"", 3, as_stored=photometric == "RGB"))
    # Other colours are not converted by the stream itself.
    converts = photometric in ("RGB", "YBR_ICT", "YBR_RCT")
    return _Decoder(None) if image.transfer_syntax in JPEG_2000 and converts else None


def _series(path: Path) -> list[Path]:
    """The file and those beside it of the same series, sorted."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    def uid(file: Path) -> str | None:
        try:
            found = dcmread(file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        except (InvalidDicomError, OSError):
            return None
        return str(found.get("SeriesInstanceUID") or file)

    own = uid(path)
    others = sorted(path.parent.glob("*.dcm"))[:MAX_SIBLINGS]
    return sorted({path, *(other for other in others if other != path and uid(other) == own)})
