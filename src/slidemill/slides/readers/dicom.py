"""DICOM in JPEG 2000, and what OpenSlide refuses of DICOM, by wsidicom.

A series of a slide is several files, one a level; `dicom_series` says which, and how their frames
lie. wsidicom finds the stored tiles; those in JPEG and JPEG 2000 are decoded here, as strictly as
those of TIFF, since it hands on what its codecs make of damage.
"""

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
    faults_of,
    on_canvas,
    true_size,
)
from slidemill.slides.readers.cache import CACHE_BYTES, Piece, PieceCache
from slidemill.slides.readers.dicom_colour import JPEG
from slidemill.slides.readers.dicom_file import quiet
from slidemill.slides.readers.dicom_series import JPEG_2000, SeriesLevel, read_series, stated_scales
from slidemill.slides.readers.jpeg import JpegPieces, OtherKindError, tables_apart
from slidemill.slides.readers.mosaic import Mosaic

if TYPE_CHECKING:
    from wsidicom.image_data import ImageData


class DicomBackend:
    """A DICOM series opened by wsidicom; see `Backend`."""

    name = "wsidicom"
    version = version_of("wsidicom")

    def __init__(self, path: Path) -> None:
        """Open the levels of the series that a file belongs to.

        Raises:
            UnsupportedError: If they are of a kind that is not read.
            OpenError: If wsidicom cannot.
        """
        from wsidicom import WsiDicom

        series = read_series(path)
        stored = series.levels
        with faults_of("wsidicom", OpenError), quiet():
            self._slide = WsiDicom.open([file for level in stored for file in level.files])
            levels = list(self._slide.levels)
            self._levels = [level.level for level in levels]
            self.level_dimensions: tuple[Size, ...] = tuple(
                (int(level.size.width), int(level.size.height)) for level in levels
            )
            self.segments: tuple[Size | None, ...] = tuple(
                (int(level.tile_size.width), int(level.tile_size.height)) for level in levels
            )
            images = [level.default_instance.image_data for level in levels]
            if self.level_dimensions != tuple(level.size for level in stored):
                raise OpenError("wsidicom does not take all levels of the series")
            decoders = [_decoder(*pair) for pair in zip(images, stored, strict=True)]
        self._places = [level.places for level in stored]
        self._cache = PieceCache(CACHE_BYTES)
        self.vendor: str | None = "dicom"
        stated = stated_scales(series)
        # Padding is no part of the slide, whatever colour a writer gave it.
        self.level_dimensions = tuple(
            size if scale is None else true_size(self.level_dimensions[0], size, tile, scale)
            for size, tile, scale in zip(self.level_dimensions, self.segments, stated, strict=True)
        )
        self._mosaics = [
            None if decoder is None else self._mosaic(number, decoder)
            for number, decoder in enumerate(decoders)
        ]
        self.layout = Layout(stated=stated, left_out=series.left_out)
        self.properties = dict(stored[0].properties)

    def _mosaic(self, number: int, decoder: "_Decoder") -> Mosaic | None:
        segment = self.segments[number]
        if segment is None or min(segment) <= 0:
            return None
        size = self.level_dimensions[number]
        across = -(-size[0] // segment[0])
        places = self._places[number]

        def decode(index: int, spare: Piece | None) -> RGB | None:
            if places is not None and index not in places:
                return None  # no frame lies there
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


def _decoder(image: "ImageData", level: SeriesLevel) -> _Decoder | None:
    """The decoder of a level's tiles; None where wsidicom decodes them."""
    if image.samples_per_pixel != 3 or image.bits != 8:
        return None
    photometric = str(image.photometric_interpretation)
    if image.transfer_syntax in JPEG:
        as_stored = photometric == "RGB" and not level.says_otherwise
        return _Decoder(tables_apart(b"", 3, as_stored=as_stored))
    # Other colours are not converted by the stream itself.
    converts = photometric in ("RGB", "YBR_ICT", "YBR_RCT")
    return _Decoder(None) if image.transfer_syntax in JPEG_2000 and converts else None
