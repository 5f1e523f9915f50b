"""Pyramids as OpenSlide reads them."""

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slidemill.slides.pyramid import write_pyramid


def smooth_pixels(width, height):
    """Smooth colours, so that JPEG loses next to nothing and any shift shows."""
    y, x = np.mgrid[:height, :width]
    waves = [128 + 60 * np.sin(x / 40), 120 + 70 * np.cos(y / 50), 90 + 40 * np.sin((x + y) / 60)]
    return np.stack(waves, axis=-1).astype(np.uint8)


def read_level(slide, level):
    return np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))[..., :3]


def test_openslide_reads_dimensions_resolution_and_pixels(tmp_path):
    pixels = smooth_pixels(1100, 700)
    path = tmp_path / "slides" / "a.tif"
    write_pyramid(path, pixels, mpp_x=0.46, mpp_y=0.463)
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_dimensions == ((1100, 700), (550, 350), (275, 175), (137, 87))
        assert slide.level_downsamples == pytest.approx((1, 2, 4, 8), rel=0.01)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.46, abs=1e-6)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.463, abs=1e-6)
        assert slide.properties["openslide.level[0].tile-width"] == "256"
        difference = np.abs(read_level(slide, 0).astype(int) - pixels)
    assert difference.max() <= 12
    assert difference.mean() < 1.5
    assert [p.name for p in path.parent.iterdir()] == ["a.tif"]


def test_levels_are_area_averages(tmp_path):
    rng = np.random.default_rng(0)
    # Grey squares of 2 x 2 different pixels: nearest-neighbour would show the noise, a mean not.
    base = np.repeat(np.repeat(smooth_pixels(256, 256), 2, 0), 2, 1).astype(int)
    noise = rng.integers(5, 30, (256, 256))
    sign = np.tile([[1, -1], [-1, 1]], (256, 256))
    pixels = base + (np.kron(noise, np.ones((2, 2), int)) * sign)[..., None]
    write_pyramid(tmp_path / "a.tif", pixels.clip(0, 255).astype(np.uint8), mpp_x=0.5, mpp_y=0.5)
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        half = read_level(slide, 1).astype(int)
    assert np.abs(half - base[::2, ::2]).max() <= 12


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    width=st.integers(33, 400),
    height=st.integers(33, 400),
    mpp=st.floats(0.1, 2.0),
    tile_px=st.sampled_from([16, 64, 256]),
)
def test_any_size_opens_with_halved_levels(tmp_path, width, height, mpp, tile_px):
    path = tmp_path / "a.tif"
    pixels = smooth_pixels(width, height)
    levels = 3
    write_pyramid(path, pixels, mpp_x=mpp, mpp_y=mpp * 1.01, tile_px=tile_px, levels=levels)
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == tuple((width >> k, height >> k) for k in range(levels))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(mpp, rel=1e-3)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(mpp * 1.01, rel=1e-3)
        # The border is as true as the inside: tiles are not padded with black.
        assert np.abs(read_level(slide, 0).astype(int) - pixels).max() <= 16


def test_same_pixels_same_bytes_and_no_names_or_dates(tmp_path):
    pixels = smooth_pixels(300, 300)
    for name in ("a.tif", "b.tif"):
        write_pyramid(tmp_path / name, pixels, mpp_x=0.5, mpp_y=0.5)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        for number, page in enumerate(tiff.pages):
            assert not {"Software", "DateTime", "ImageDescription"} & {
                tag.name for tag in page.tags
            }
            assert int(page.subfiletype) == (1 if number else 0)


@pytest.mark.parametrize(
    ("pixels", "more"),
    [
        (np.zeros((64, 64), np.uint8), {}),
        (np.zeros((64, 64, 4), np.uint8), {}),
        (np.zeros((64, 64, 3), np.float32), {}),
        (np.zeros((0, 64, 3), np.uint8), {}),
        (np.zeros((64, 64, 3), np.uint8), {"mpp_x": 0.0}),
        (np.zeros((64, 64, 3), np.uint8), {"tile_px": 100}),
        (np.zeros((64, 64, 3), np.uint8), {"quality": 0}),
        (np.zeros((64, 64, 3), np.uint8), {"levels": 8}),
        (np.zeros((64, 64, 3), np.uint8), {"levels": 0}),
    ],
)
def test_nonsense_is_refused_and_leaves_the_old_file(tmp_path, pixels, more):
    path = tmp_path / "a.tif"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=r"needed|has to be|cannot have"):
        write_pyramid(path, pixels, **({"mpp_x": 0.5, "mpp_y": 0.5} | more))
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]
    assert path.read_bytes() == b"old"
