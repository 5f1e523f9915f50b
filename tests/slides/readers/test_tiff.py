"""Kinds of TIFF that are made here: each has to give back its pixels."""

import numpy as np
import pytest
import tifffile

from slidemill.errors import SlideCode, SlideError
from slidemill.slides.reader import Slide
from slidemill.slides.readers import tiff

RGB = np.random.default_rng(0).integers(0, 256, (300, 420, 3), dtype=np.uint8)
KINDS = {
    "tiled": {"tile": (64, 64), "photometric": "rgb"},
    "striped": {"rowsperstrip": 16, "photometric": "rgb"},
    "one strip": {"rowsperstrip": 300, "photometric": "rgb"},
    "big": {"tile": (64, 64), "photometric": "rgb", "bigtiff": True},
    "big-endian": {"tile": (64, 64), "photometric": "rgb", "byteorder": ">"},
    "deflate": {"tile": (64, 64), "photometric": "rgb", "compression": "deflate", "predictor": 2},
    "lzw": {"rowsperstrip": 16, "photometric": "rgb", "compression": "lzw"},
    "planes": {"tile": (64, 64), "photometric": "rgb", "planarconfig": "separate"},
    "lossless jpeg2000": {"tile": (64, 64), "photometric": "rgb", "compression": "jpeg2000"},
}


def write(path, pixels, **options):
    kind = {key: options.pop(key) for key in ("bigtiff", "byteorder", "ome") if key in options}
    with tifffile.TiffWriter(path, **kind) as writer:
        writer.write(pixels, **options)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_come_back(tmp_path, kind):
    options = dict(KINDS[kind])
    pixels = np.moveaxis(RGB, 2, 0) if kind == "planes" else RGB
    path = write(tmp_path / "a.tif", pixels, **options)
    with Slide(path) as slide:
        assert slide.reader.startswith("tiff")
        assert slide.dimensions == (420, 300)
        assert (slide.read(0, 0, 0, 420, 300) == RGB).all()
        assert (slide.read(0, 37, 41, 200, 130) == RGB[41:171, 37:237]).all()


def test_grey_inverted_and_transparent_pixels(tmp_path):
    grey = RGB[..., 0]
    with Slide(write(tmp_path / "g.tif", grey, tile=(64, 64), photometric="minisblack")) as slide:
        assert (slide.read(0, 0, 0, 420, 300) == grey[..., None]).all()
    with Slide(write(tmp_path / "i.tif", grey, tile=(64, 64), photometric="miniswhite")) as slide:
        assert (slide.read(0, 0, 0, 420, 300) == 255 - grey[..., None]).all()
    rgba = np.dstack([RGB, np.zeros(grey.shape, np.uint8)])
    rgba[:100, :, 3] = 255
    options = {"photometric": "rgb", "extrasamples": ["unassalpha"], "tile": (64, 64)}
    with Slide(write(tmp_path / "a.tif", rgba, **options)) as slide:
        found = slide.read(0, 0, 0, 420, 300)
    assert (found[:100] == RGB[:100]).all()
    assert (found[100:] == 255).all()


def test_levels_in_subifds_and_in_directories(tmp_path):
    levels = [RGB, RGB[::2, ::2], RGB[::4, ::4]]
    for name, subifds in (("sub.ome.tif", 2), ("pages.tif", 0)):
        with tifffile.TiffWriter(tmp_path / name, ome=bool(subifds)) as writer:
            common = {"tile": (64, 64), "photometric": "rgb"}
            writer.write(levels[0], subifds=subifds, **common)
            for level in levels[1:]:
                writer.write(level, subfiletype=1, **common)
        with Slide(tmp_path / name) as slide:
            assert slide.level_dimensions == ((420, 300), (210, 150), (105, 75))
            for number, level in enumerate(levels):
                size = slide.level_dimensions[number]
                assert (slide.read(number, 0, 0, *size) == level).all()


def test_thumbnails_labels_and_macros_are_no_levels(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(RGB, tile=(64, 64), photometric="rgb")
        writer.write(RGB[::3, ::3], photometric="rgb")  # a thumbnail in strips
        writer.write(RGB[::2, ::6], tile=(64, 64), photometric="rgb")  # another shape
        writer.write(RGB[::2, ::2], tile=(64, 64), photometric="rgb")
    with Slide(tmp_path / "a.tif") as slide:
        assert slide.level_dimensions == ((420, 300), (210, 150))


def test_three_planes_of_ome_are_red_green_and_blue(tmp_path):
    planes = np.moveaxis(RGB, 2, 0)
    path = tmp_path / "planes.ome.tif"
    options = {"tile": (64, 64), "photometric": "minisblack", "metadata": {"axes": "CYX"}}
    tifffile.imwrite(path, planes, ome=True, **options)
    with Slide(path) as slide:
        assert (slide.read(0, 10, 20, 100, 90) == RGB[20:110, 10:110]).all()


@pytest.mark.parametrize(
    ("pixels", "options", "what"),
    [
        (RGB.astype(np.uint16), {"photometric": "rgb"}, "uint16"),
        (
            np.zeros((5, 64, 64), np.uint8),
            {"photometric": "minisblack", "metadata": {"axes": "CYX"}, "ome": True},
            "fluorescence",
        ),
        (RGB[..., :2].copy(), {"photometric": "minisblack", "planarconfig": "contig"}, "channels"),
    ],
)
def test_what_is_not_read_is_said(tmp_path, pixels, options, what):
    path = write(tmp_path / "a.ome.tif", pixels, tile=(64, 64), **options)
    with pytest.raises(SlideError, match=what) as caught, Slide(path, "tiff"):
        pass
    assert caught.value.code == SlideCode.UNSUPPORTED


def test_a_giant_in_one_compressed_piece_is_refused_with_the_remedy(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif", RGB, rowsperstrip=300, photometric="rgb", compression="lzw")
    monkeypatch.setattr("slidemill.slides.readers.tiff_levels.MAX_PIECE_BYTES", 1000)
    with pytest.raises(SlideError, match="tiled TIFF") as caught, Slide(path):
        pass
    assert caught.value.code == SlideCode.UNSUPPORTED


def test_a_damaged_piece_is_an_error_and_costs_itself_alone(tmp_path):
    path = write(tmp_path / "a.tif", RGB, tile=(64, 64), photometric="rgb", compression="deflate")
    with tifffile.TiffFile(path) as file:
        damaged = file.pages[0].dataoffsets[7]
    with path.open("r+b") as stream:
        stream.seek(damaged)
        stream.write(b"\0" * 16)
    with Slide(path, "tiff") as slide:
        assert (slide.read(0, 64, 0, 64, 64) == RGB[:64, 64:128]).all()
        with pytest.raises(SlideError) as caught:
            slide.read(0, 0, 64, 64, 64)
        assert caught.value.code == SlideCode.READ_ERROR
        assert (slide.read(0, 64, 64, 64, 64) == RGB[64:128, 64:128]).all()


def test_the_cache_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff, "CACHE_BYTES", 3 * 64 * 64 * 3)
    path = write(tmp_path / "a.tif", RGB, tile=(64, 64), photometric="rgb")
    backend = tiff.TiffBackend(path)
    for _ in range(2):
        found = np.empty_like(RGB)
        backend.read_into(0, 0, 0, found)
        assert (found == RGB).all()
    assert backend._cache.kept_bytes <= tiff.CACHE_BYTES
    backend.close()
