"""Whatever reader is used, the same region has the same pixels within JPEG's tolerance."""

import importlib.util

import numpy as np
import pytest

from slidemill.slides.reader import Slide
from slidemill.slides.regions import Region, read_region

PAIRS = [
    ("CMU-1-Small-Region.svs", "openslide", "tiff"),
    ("TCGA-CR-7395-01A-01-TS1.svs", "openslide", "tiff"),
    ("openslide-boxes.tiff", "openslide", "tiff"),
    ("camelyon_jpeg.dcm", "openslide", "wsidicom"),
    ("camelyon_jpeg2000.dcm", "openslide", "wsidicom"),
    ("highdicom-sm_image.dcm", "openslide", "wsidicom"),
    ("openslide-boxes-dcm/boxes_0.dcm", "openslide", "wsidicom"),
    pytest.param(
        "CMU-1-Small-Region.svs",
        "tiff",
        "cucim",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("cucim") is None, reason="cuCIM is not installed"
        ),
    ),
]
MEAN_TOLERANCE, WORST_TOLERANCE = 1.0, 24
"""Decoders of JPEG may round otherwise; a shift by one pixel gives a mean of 5 and more."""


@pytest.mark.parametrize(("name", "first", "second"), PAIRS)
def test_readers_agree_on_real_slides(shared, name, first, second):
    agree(shared / "slides" / name, first, second)


def test_readers_agree_on_an_ndpi(brightfield_ndpi):
    agree(brightfield_ndpi, "openslide", "tiff")
    with Slide(brightfield_ndpi) as slide:
        assert slide.reader.startswith("openslide")


def agree(path, first, second):
    with Slide(path, first) as one, Slide(path, second) as other:
        assert one.dimensions == other.dimensions
        assert one.level_downsamples[0] == other.level_downsamples[0] == 1.0
        width, height = one.dimensions
        rng = np.random.default_rng(0)
        for downsample in (1.0, 1.37, 2.0005, 3.9896):
            size = max(4, min(200, round(min(width, height) / downsample / 2)))
            extent = size * downsample
            x = int(rng.integers(-8, max(1, round(width - extent) + 8)))
            y = int(rng.integers(-8, max(1, round(height - extent) + 8)))
            region = Region(x, y, extent, extent)
            a, b = (read_region(slide, region, size, size).astype(int) for slide in (one, other))
            difference = np.abs(a - b)
            assert difference.mean() <= MEAN_TOLERANCE, (region, difference.mean())
            assert difference.max() <= WORST_TOLERANCE, (region, difference.max())


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("CMU-1-Small-Region.svs", "tiff"),
        ("TCGA-CR-7395-01A-01-TS1.svs", "tiff"),
        ("OS-1-detail.ome.tif", "tiff"),
        ("openslide-boxes.tiff", "tiff"),
        ("camelyon_jpeg.dcm", "openslide"),
        ("openslide-boxes-dcm/boxes_0.dcm", "openslide"),
    ],
)
def test_the_choice_is_automatic_and_recorded(shared, name, reader):
    with Slide(shared / "slides" / name) as slide:
        assert slide.reader.split(" ")[0] == reader
        again = slide.reader
    with Slide(shared / "slides" / name, again) as slide:
        assert slide.reader == again


def test_outside_is_white_with_every_reader(shared):
    for name, reader in [
        ("CMU-1-Small-Region.svs", "tiff"),
        ("CMU-1-Small-Region.svs", "openslide"),
        ("camelyon_jpeg.dcm", "wsidicom"),
    ]:
        with Slide(shared / "slides" / name, reader) as slide:
            width, height = slide.dimensions
            assert (slide.read(0, width, height, 5, 5) == 255).all()
            assert (slide.read(0, -5, -5, 5, 5) == 255).all()
            corner = slide.read(0, width - 3, height - 3, 6, 6)
            assert (corner[3:] == 255).all()
            assert (corner[:, 3:] == 255).all()
            assert (corner[:3, :3] == slide.read(0, width - 3, height - 3, 3, 3)).all()
