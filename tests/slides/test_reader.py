import numpy as np
import openslide
import pytest

from slidemill.errors import SlideCode, SlideError
from slidemill.slides.overview import read_overview
from slidemill.slides.reader import Slide, on_white
from slidemill.slides.readers.base import level_scales
from slidemill.slides.regions import Region, read_region


def code(path):
    with pytest.raises(SlideError) as caught, Slide(path):
        pass
    return caught.value


def test_a_pyramid(disc_slide, disc_pixels):
    with Slide(disc_slide) as slide:
        assert slide.dimensions == (1000, 800)
        assert slide.level_downsamples[:2] == (1.0, 2.0)
        assert slide.vendor == "generic-tiff"
        pixels = slide.read(0, 0, 0, 1000, 800).astype(int)
    assert np.abs(pixels - disc_pixels).mean() < 2


def test_the_coarsest_level_that_is_fine_enough(disc_slide):
    with Slide(disc_slide) as slide:
        assert [slide.best_level(d) for d in (0.9, 1.0, 1.99, 2.0, 3.0)] == [0, 0, 0, 1, 1]


def test_outside_is_white(disc_slide):
    with Slide(disc_slide) as slide:
        assert (slide.read(0, 2000, 2000, 8, 8) == 255).all()
        assert (slide.read(0, -8, -8, 8, 8) == 255).all()
        corner = read_region(slide, Region(990, 790, 20, 20), 20, 20)
    assert (corner[10:] == 255).all()
    assert (corner[:, 10:] == 255).all()
    assert (corner[:10, :10] < 250).all()


def test_transparency_is_composited_on_white():
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    assert on_white(rgba).tolist() == [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]


def test_a_region_is_where_it_says_at_every_scale(disc_slide):
    """The disc's left edge at x = 200 shows at the right place, within a pixel."""
    with Slide(disc_slide) as slide:
        for downsample in (1.0, 1.002, 1.37, 2.0, 2.9948, 3.9896):
            size = round(400 / downsample)
            row = read_region(slide, Region(100, 399, 400, 2 * downsample), size, 2)[0]
            edge = np.argmax(row[:, 1] < 190)
            assert abs(edge * 400 / size - 100) <= max(1.5 * downsample, 2)


def test_finer_than_the_slide_is_refused_beyond_a_tolerance(disc_slide):
    with Slide(disc_slide) as slide:
        assert read_region(slide, Region(0, 0, 100, 100), 105, 105).shape == (105, 105, 3)
        with pytest.raises(SlideError) as caught:
            read_region(slide, Region(0, 0, 100, 100), 200, 200)
    assert caught.value.code == SlideCode.TOO_COARSE


def test_an_overview_in_blocks_is_the_overview_in_one(disc_slide, monkeypatch):
    with Slide(disc_slide) as slide:
        whole = read_overview(slide, 4.5, 4.5).pixels
        monkeypatch.setattr("slidemill.slides.overview.MAX_BLOCK_PX", 128 * 128)
        blocks = read_overview(slide, 4.5, 4.5).pixels
    assert whole.shape == (178, 223, 3)
    assert np.abs(whole.astype(int) - blocks).max() <= 2


def test_real_slides(shared):
    with Slide(shared / "slides" / "CMU-1-Small-Region.svs") as slide:
        assert slide.dimensions == (2220, 2967)
        assert slide.vendor == "aperio"
    with Slide(shared / "slides" / "openslide-unreadable.svs") as slide:
        with pytest.raises(SlideError) as caught:
            slide.read(0, 0, 0, 16, 16)
        assert caught.value.code == SlideCode.READ_ERROR
    assert code(shared / "slides" / "histolab-broken.svs").code == SlideCode.NOT_A_SLIDE
    assert code(shared / "slides" / "openslide-unopenable.tiff").code == SlideCode.UNSUPPORTED


def test_a_region_of_a_real_slide_is_openslides_own(shared):
    path = shared / "slides" / "TCGA-CR-7395-01A-01-TS1.svs"
    with Slide(path) as slide, openslide.OpenSlide(path) as plain:
        ours = read_region(slide, Region(1000, 900, 256, 256), 256, 256)
        theirs = np.asarray(plain.read_region((1000, 900), 0, (256, 256)).convert("RGB"))
    assert (ours == theirs).all()


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(4443, 3567), (2221, 1783)], [1, 2]),
        ([(40000, 30000), (1250, 937), (156, 117)], [1, 32, 256]),
        ([(4987, 3591), (2500, 1800)], [1, 1.9948]),
        ([(300, 250), (150, 125), (75, 62), (37, 31)], [1, 2, 4, 8]),
        ([(1000, 1000), (333, 333)], [1, 3]),
        ([(1000, 1000), (330, 330)], [1, 1000 / 330]),
    ],
)
def test_downsamples_are_whole_only_where_rounding_explains_the_dimensions(sizes, expected):
    found = [one.downsample for one in level_scales(tuple(sizes))]
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("size", "tile", "scale", "source"),
    [
        ((1024, 1024), (256, 256), 2.0, "whole"),  # 995 padded
        ((512, 512), (256, 256), 4.0, "whole"),
        ((1024, 1024), None, 1990 / 1024, "sizes"),
        ((1024, 1024), (1024, 16), 1990 / 1024, "sizes"),  # strips
        ((1008, 1008), (256, 256), 1990 / 1008, "sizes"),  # no whole tiles
        ((995, 995), (256, 256), 2.0, "whole"),
    ],
)
def test_padding_to_whole_tiles_explains_a_scale(size, tile, scale, source):
    found = level_scales(((1990, 1990), size), ((256, 256), tile))[1]
    assert (found.downsample, found.source) == (pytest.approx(scale), source)
    assert level_scales(((1990, 1990), size), (), (None, 3.5))[1].source == "stated"
