"""Rows of bytes in a TIFF: as many as belong there, exactly."""

import numpy as np
import pytest
import tifffile

from slidemill.errors import SlideCode, SlideError
from slidemill.slides.reader import Slide

PIXELS = np.random.default_rng(0).integers(0, 256, (500, 70, 3), dtype=np.uint8)


def overwrite(path, name, value):
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags[name].overwrite(value)


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "packbits", "zstd"])
@pytest.mark.parametrize("predictor", [False, True])
def test_codecs_give_their_pixels_back(tmp_path, compression, predictor):
    predictor = predictor and compression is not None
    for number, shape in enumerate(({"rowsperstrip": 40}, {"tile": (64, 64)})):
        path = tmp_path / f"{number}.tif"
        options = {"photometric": "rgb", "compression": compression, "predictor": predictor}
        tifffile.imwrite(path, PIXELS, **shape, **options)
        with Slide(path, "tiff") as slide:
            assert (slide.read(0, 0, 0, 70, 500) == PIXELS).all()


@pytest.mark.parametrize("compression", ["lzw", "deflate", "packbits"])
def test_strips_of_another_height_are_errors(tmp_path, compression):
    """500 rows make 13 strips of 40 as of 41; the last one has rows of another place."""
    path = tmp_path / "a.tif"
    options = {"photometric": "rgb", "compression": compression, "rowsperstrip": 40}
    tifffile.imwrite(path, PIXELS, **options)
    overwrite(path, "RowsPerStrip", 41)
    with Slide(path) as slide:
        for y in range(0, 500, 41):
            with pytest.raises(SlideError) as caught:
                slide.read(0, 0, y, 70, min(41, 500 - y))
            assert caught.value.code == SlideCode.READ_ERROR


def test_packed_bytes_that_are_called_plain_are_errors(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", compression="lzw", tile=(64, 64))
    overwrite(path, "Compression", 1)
    with Slide(path) as slide, pytest.raises(SlideError, match="pixels belong"):
        slide.read(0, 0, 0, 64, 64)
