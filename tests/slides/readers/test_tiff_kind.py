"""Pixels that are not 8-bit RGB: read right with every reader, or refused by name with all."""

import imagecodecs
import numpy as np
import pytest
import tifffile

from slidemill.errors import SlideCode, SlideError
from slidemill.slides.reader import Slide
from slidemill.slides.readers.tiff_ycbcr import YCbCr

READERS = ("auto", "tiff", "openslide")
PIXELS = np.random.default_rng(0).integers(0, 256, (128, 192, 3), dtype=np.uint8)
TILES = {"tile": (64, 64)}


def pixels_of(path, reader="auto"):
    with Slide(path, reader) as slide:
        return slide.read(0, 0, 0, *slide.dimensions).astype(int)


def refused(path, words, readers=READERS):
    for reader in readers:
        with pytest.raises(SlideError, match=words) as caught, Slide(path, reader):
            pass
        assert caught.value.code == SlideCode.UNSUPPORTED


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sixteen-bit/tiff-rgb-12.tif", "uint16"),
        ("fluorescence/ome4-8.ome.tif", "fluorescence"),
        ("fluorescence/qptiff-8.tif", "fluorescence"),
    ],
)
def test_the_cases_that_are_refused(shared, name, words):
    refused(shared / "cases" / name, words)


def test_real_fluorescence_is_refused(shared):
    refused(shared / "real" / "slides" / "small_vectra.qptiff", "fluorescence")
    path = shared / "slides" / "fluorescence-dapi.ndpi"
    refused(path, r"fluorescence \(filters DAPI", ("auto", "openslide"))


@pytest.mark.parametrize("name", ["rgb-lzw.tif", "ycbcr-lzw.tif", "extra-unspecified-ir.tif"])
@pytest.mark.parametrize("reader", READERS)
def test_the_cases_whose_picture_is_the_same(shared, name, reader):
    folder = shared / "cases" / "tiff-colours"
    expected = tifffile.imread(folder / "rgb-lzw.tif").astype(int)
    assert np.abs(pixels_of(folder / name, reader) - expected).max() <= 3


@pytest.mark.parametrize("reader", READERS)
def test_premultiplied_alpha_is_not_multiplied_again(shared, reader):
    path = shared / "cases" / "tiff-colours" / "extra-assoc-half.tif"
    stored = tifffile.imread(path).astype(int)
    expected = stored[..., :3] + 255 - stored[..., 3:]
    assert np.abs(pixels_of(path, reader) - expected).max() <= 2


@pytest.mark.parametrize("reader", READERS)
def test_straight_alpha_is_composited_on_white(tmp_path, reader):
    alpha = np.full(PIXELS.shape[:2], 128, np.uint8)
    path = tmp_path / "a.tif"
    pixels = np.dstack([PIXELS, alpha])
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unassalpha"], **TILES)
    expected = PIXELS * (128 / 255) + 127
    assert np.abs(pixels_of(path, reader) - expected).max() <= 2


def test_inverted_grey_with_three_samples_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", **TILES)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["PhotometricInterpretation"].overwrite(0)
    refused(path, "inverted")


def test_ycbcr_with_coarser_chroma_and_no_jpeg_is_refused(tmp_path):
    path = ycbcr(tmp_path / "a.tif", PIXELS)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["YCbCrSubSampling"].overwrite((2, 2))
    refused(path, "coarser chroma")


def ycbcr(path, pixels, **tags):
    extra = [(530, "H", 2, (1, 1), True)]
    extra += [(code, "2I", count, value, True) for code, count, value in tags.get("tags", [])]
    tifffile.imwrite(path, pixels, photometric="rgb", compression="lzw", extratags=extra, **TILES)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["PhotometricInterpretation"].overwrite(6)
    return path


def test_ycbcr_on_scales_of_its_own_is_converted_as_openslide_does(tmp_path):
    """Video's range and the coefficients of BT.709."""
    shares = (2126, 10000, 7152, 10000, 722, 10000)
    scale = (16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1)
    smooth = np.clip(PIXELS // 4 + 96, 0, 255).astype(np.uint8)
    path = ycbcr(tmp_path / "a.tif", smooth, tags=[(529, 3, shares), (532, 6, scale)])
    own, other = pixels_of(path), pixels_of(path, "openslide")
    assert np.abs(own - other).max() <= 3
    assert np.abs(own - YCbCr().rgb_of(smooth)).max() > 8


def test_jpeg_2000_of_luma_and_chroma_is_converted(tmp_path):
    """Aperio's compression 33003, whose streams do not say that they are luma and chroma."""
    y, x = np.mgrid[:128, :192]
    colours = np.dstack([x, 255 - y, (x + y) // 2]).astype(np.uint8)
    stored = luma_and_chroma(colours)
    pieces = [stored[r : r + 64, c : c + 64] for r in (0, 64) for c in (0, 64, 128)]
    options = {"level": 0, "codecformat": "j2k", "mct": False}
    tiles = [imagecodecs.jpeg2k_encode(np.ascontiguousarray(one), **options) for one in pieces]
    path = tmp_path / "a.svs"
    text = "Aperio Image Library v11\r\n192x128 [0,0 192x128] (64x64) J2K/YUV16|MPP = 0.5"
    options = {"photometric": "rgb", "compression": 33003, "description": text, "metadata": None}
    with tifffile.TiffWriter(path) as writer:
        writer.write(iter(tiles), shape=colours.shape, dtype="uint8", **TILES, **options)
    for reader in READERS:
        assert np.abs(pixels_of(path, reader) - colours).max() <= 3


def luma_and_chroma(colours):
    red, green, blue = np.moveaxis(colours.astype(float), 2, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    found = np.dstack([luma, 128 + (blue - luma) / 1.772, 128 + (red - luma) / 1.402])
    return np.clip(np.rint(found), 0, 255).astype(np.uint8)


def test_grey_with_three_samples_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, photometric="minisblack", planarconfig="contig", **TILES)
    refused(path, "3 channels")
