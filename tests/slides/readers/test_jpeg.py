"""Strict decoding of stored JPEG pieces: colours, sizes, tables, and what is damage."""

import numpy as np
import pytest
import simplejpeg
import tifffile

from slidemill.errors import SlideCode, SlideError
from slidemill.slides.reader import Slide
from slidemill.slides.readers import tiff_pieces
from slidemill.slides.readers.base import ReadError
from slidemill.slides.readers.jpeg import EOI, SOI, OtherKindError, tables_apart

SIZE = (96, 64)
SMOOTH = np.dstack(np.meshgrid(np.arange(96) * 2, np.arange(64) * 3)).astype(np.uint8)
PIXELS = np.dstack([SMOOTH, np.full((64, 96), 90, np.uint8)])


def pages(path):
    """Every level of a file by tifffile's own decoder, which is not strict."""
    with tifffile.TiffFile(path) as file:
        return file.pages[0].asarray()


@pytest.mark.parametrize(
    "name", ["CMU-1-Small-Region.svs", "OS-1-detail.ome.tif", "OS-2-vsi-Ki67.ome.tif"]
)
def test_pixels_of_real_slides_are_those_of_the_general_decoder(shared, name):
    path = shared / "slides" / name
    with Slide(path, "tiff") as slide:
        assert (slide.read(0, 0, 0, *slide.dimensions) == pages(path)).all()


@pytest.mark.parametrize(
    ("photometric", "subsampling"),
    [
        ("rgb", None),
        ("minisblack", None),
        ("ycbcr", (1, 1)),
        ("ycbcr", (2, 1)),
        ("ycbcr", (2, 2)),
    ],
)
@pytest.mark.parametrize("shape", [{"tile": (240, 240)}, {"rowsperstrip": 40}])
def test_kinds_of_jpeg_in_tiff(tmp_path, disc_pixels, photometric, subsampling, shape):
    pixels = disc_pixels[..., 1].copy() if photometric == "minisblack" else disc_pixels
    options = {"photometric": "rgb" if photometric == "ycbcr" else photometric} | shape
    if photometric == "ycbcr":
        options |= {"subsampling": subsampling}
        options["compressionargs"] = {"outcolorspace": "ycbcr"}
    tifffile.imwrite(tmp_path / "a.tif", pixels, compression="jpeg", **options)
    expected = pages(tmp_path / "a.tif")
    if expected.ndim == 2:
        expected = np.repeat(expected[..., None], 3, axis=2)
    with Slide(tmp_path / "a.tif", "tiff") as slide:
        assert (slide.read(0, 0, 0, 1000, 800) == expected).all()
        assert (slide.read(0, 201, 333, 256, 256) == expected[333:589, 201:457]).all()


def test_colours_are_as_the_directory_says():
    """The same stream without markers is RGB or YCbCr, by what the TIFF says of it."""
    full = simplejpeg.encode_jpeg(PIXELS, colorspace="RGB", colorsubsampling="444", quality=95)
    at = full.index(b"\xff\xe0")
    length = int.from_bytes(full[at + 2 : at + 4], "big")
    bare = full[:at] + full[at + 2 + length :]
    converted = tables_apart(b"", 3, as_stored=False).decode(bare, (SIZE,))
    stored = tables_apart(b"", 3, as_stored=True).decode(bare, (SIZE,))
    assert np.abs(converted.astype(int) - PIXELS).max() <= 4
    luma = PIXELS @ np.array([0.299, 0.587, 0.114])
    assert np.abs(stored[..., 0] - luma).max() <= 6
    with pytest.raises(OtherKindError):
        tables_apart(b"", 3, as_stored=True).decode(full, (SIZE,))


def test_tables_that_lie_apart():
    full = simplejpeg.encode_jpeg(PIXELS)
    frame = full.index(b"\xff\xc0")
    quantisation = full[full.index(b"\xff\xdb") : frame]
    tables, short = SOI + quantisation + EOI, SOI + full[frame:]
    with pytest.raises(ReadError):
        tables_apart(b"", 3, False).decode(short, (SIZE,))
    found = tables_apart(tables, 3, False).decode(short, (SIZE,))
    assert (found == simplejpeg.decode_jpeg(full)).all()


def test_memory_that_fits_is_used_and_other_is_not():
    decoder = tables_apart(b"", 3, False)
    data = simplejpeg.encode_jpeg(PIXELS)
    spare = np.empty_like(PIXELS)
    assert decoder.decode(data, (SIZE,), spare) is spare
    for other in (np.empty((64, 95, 3), np.uint8), np.empty((64, 192, 3), np.uint8)[:, ::2]):
        found = decoder.decode(data, (SIZE,), other)
        assert not np.shares_memory(found, other)
        assert (found == spare).all()


def test_an_end_mark_that_is_left_away_is_no_damage_but_lost_pixels_are():
    decoder = tables_apart(b"", 3, False)
    data = simplejpeg.encode_jpeg(PIXELS)
    expected = decoder.decode(data, (SIZE,))
    assert (decoder.decode(data[:-2], (SIZE,)) == expected).all()
    assert (decoder.decode(data + b"\0", (SIZE,)) == expected).all()
    for torn in (data[: len(data) * 3 // 4], data[:40], data[: len(data) // 2] + EOI, b"", SOI):
        with pytest.raises(ReadError):
            decoder.decode(torn, (SIZE,))


def test_sizes_and_channels_that_contradict_the_directory_are_damage():
    data = simplejpeg.encode_jpeg(PIXELS)
    with pytest.raises(ReadError, match="96 x 64"):
        tables_apart(b"", 3, False).decode(data, ((96, 96),))
    with pytest.raises(ReadError, match="channels"):
        tables_apart(b"", 1, False).decode(data, (SIZE,))


def test_lossless_and_arithmetic_streams_are_of_another_kind():
    data = bytearray(simplejpeg.encode_jpeg(PIXELS))
    frame = data.index(b"\xff\xc0")
    for marker in (0xC3, 0xC9):
        data[frame + 1] = marker
        with pytest.raises(OtherKindError):
            tables_apart(b"", 3, False).decode(bytes(data[:-30]), (SIZE,))


def test_streams_of_another_kind_go_to_the_general_decoder(tmp_path, disc_pixels, monkeypatch):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, disc_pixels, tile=(256, 256), compression="jpeg", photometric="rgb")
    with Slide(path, "tiff") as slide:
        expected = slide.read(0, 0, 0, 1000, 800)

    def refuse(*_):
        raise OtherKindError("lossless")

    monkeypatch.setattr(tiff_pieces.JpegPieces, "decode", refuse)
    with Slide(path, "tiff") as slide:
        assert (slide.read(0, 0, 0, 1000, 800) == expected).all()


def test_damage_of_the_first_tile_does_not_change_the_colours_of_others(shared, tmp_path):
    source = shared / "slides" / "OS-1-detail.ome.tif"
    path = tmp_path / source.name
    data = bytearray(source.read_bytes())
    with tifffile.TiffFile(source) as file:
        first = file.pages[0].dataoffsets[0]
    data[first : first + 64] = bytes(64)
    path.write_bytes(data)
    with Slide(source) as sound, Slide(path) as torn:
        with pytest.raises(SlideError) as caught:
            torn.read(0, 0, 0, 512, 512)
        assert caught.value.code is SlideCode.READ_ERROR
        assert (torn.read(0, 512, 512, 400, 400) == sound.read(0, 512, 512, 400, 400)).all()
