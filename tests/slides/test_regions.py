"""A region of S um is S um, within a pixel, at every pyramid; giants are read in bounded memory."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import tifffile

from slidemill.slides.reader import Slide
from slidemill.slides.regions import Region, read_region

SIZES = {
    "halves": [(4000, 3000), (2000, 1500), (1000, 750)],
    "1.9948 and 3.9896": [(4987, 3591), (2500, 1800), (1250, 900)],
    "4.00012 and 16.00049": [(32801, 2051), (8200, 513), (2050, 128)],
    "one level": [(3000, 2000)],
    "three and a bit": [(4000, 3000), (1283, 962)],
}
CELL = 64
"""Edge of the cells of the pattern, level-0 pixels."""


@pytest.fixture(scope="module", params=SIZES)
def pyramid(request, tmp_path_factory):
    """A checkerboard, every level of it averaged by area from level 0."""
    sizes = SIZES[request.param]
    width, height = sizes[0]
    y, x = np.mgrid[:height, :width]
    board = (((x // CELL) + (y // CELL)) % 2 * 200 + 20).astype(np.uint8)
    pixels = np.repeat(board[..., None], 3, axis=2)
    path = tmp_path_factory.mktemp("pyramid") / "slide.tif"
    with tifffile.TiffWriter(path) as writer:
        for number, size in enumerate(sizes):
            level = pixels if not number else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            options = {"tile": (256, 256), "photometric": "rgb", "compression": "deflate"}
            writer.write(level, subfiletype=int(number > 0), **options)
    return path


def edges(profile):
    """Positions where a profile crosses its middle, with a part of a pixel."""
    values = profile.astype(float) - 119.5  # no pixel is at the middle itself
    at = np.flatnonzero(values[:-1] * values[1:] < 0)
    return at + 0.5 + values[at] / (values[at] - values[at + 1])


@pytest.mark.parametrize("reader", ["tiff", "openslide"])
@pytest.mark.parametrize("downsample", [1.0, 1.002, 1.37, 1.9948, 2.0, 3.9896, 4.0, 5.3])
def test_edges_are_where_they_are_on_the_slide(pyramid, reader, downsample):
    with Slide(pyramid, reader) as slide:
        size = 180
        for x, y in ((0, 0), (301, 403), (1013, 777)):
            extent = size * downsample
            if x + extent > slide.dimensions[0] or y + extent > slide.dimensions[1]:
                continue
            pixels = read_region(slide, Region(x, y, extent, extent), size, size)[..., 1]
            for axis, start in ((0, y), (1, x)):
                # A row or column through the middle of a cell: only one kind of edge is cut.
                other = x if axis == 0 else y
                middle = (np.ceil(other / CELL) * CELL + CELL / 2 - other) / downsample
                profile = pixels[:, int(middle)] if axis == 0 else pixels[int(middle)]
                found = edges(profile) * downsample + start
                nearest = np.rint(found / CELL) * CELL
                assert len(found) >= extent // CELL - 1
                # Within a pixel of the region, whatever level it was read from.
                assert np.abs(found - nearest).max() <= downsample


def test_the_level_is_never_coarser_than_asked(pyramid):
    with Slide(pyramid) as slide:
        for downsample in (1.0, 1.5, 1.9948, 2.0, 3.9, 4.0, 17.0):
            level = slide.best_level(downsample)
            assert slide.level_downsamples[level] <= downsample * 1.001
            finer = [d for d in slide.level_downsamples if d <= downsample * 1.001]
            assert slide.level_downsamples[level] == max(finer)


@pytest.mark.parametrize("reader", ["tiff", "openslide"])
@pytest.mark.parametrize("downsample", [1.0, 1.002, 1.37, 2.0, 3.0, 5.3])
def test_given_memory_gets_the_same_pixels(pyramid, reader, downsample):
    """Also where it is a part of a larger array, and where the region leaves the slide."""
    with Slide(pyramid, reader) as slide:
        width, height = slide.dimensions
        for x, y in ((0, 0), (301, 403), (-50, -60), (width - 70, height - 90)):
            region = Region(x, y, 180 * downsample, 180 * downsample)
            expected = read_region(slide, region, 180, 180)
            batch = np.full((3, 180, 180, 3), 7, np.uint8)
            assert np.shares_memory(read_region(slide, region, 180, 180, batch[1]), batch)
            assert (batch[1] == expected).all()
            assert (batch[[0, 2]] == 7).all()
            wide = np.full((180, 400, 3), 7, np.uint8)
            read_region(slide, region, 180, 180, out=wide[:, 100:280])
            assert (wide[:, 100:280] == expected).all()
            assert (wide[:, :100] == 7).all()
            assert (wide[:, 280:] == 7).all()


def test_results_share_no_memory_with_each_other(pyramid):
    with Slide(pyramid) as slide:
        for downsample in (1.0, 1.7, 2.0):
            region = Region(64, 64, 100 * downsample, 100 * downsample)
            first = read_region(slide, region, 100, 100)
            kept = first.copy()
            read_region(slide, Region(600, 700, *[100 * downsample] * 2), 100, 100)
            assert (first == kept).all()


def test_memory_of_another_size_or_type_is_refused(pyramid):
    with Slide(pyramid) as slide:
        for out in (
            np.empty((100, 101, 3), np.uint8),
            np.empty((100, 100, 4), np.uint8),
            np.empty((100, 100, 3), np.float32),
        ):
            with pytest.raises(ValueError, match="out is"):
                read_region(slide, Region(0, 0, 100, 100), 100, 100, out)


def test_threads_read_the_same_as_one(shared):
    """Cache, scratch memory and handles are shared; pixels are not mixed up."""
    path = shared / "slides" / "CMU-1-Small-Region.svs"
    rng = np.random.default_rng(0)
    regions = [
        Region(float(x), float(y), 256 * s, 256 * s)
        for x, y, s in zip(
            rng.integers(0, 1500, 120),
            rng.integers(0, 2200, 120),
            rng.choice([1.0, 1.5, 2.0], 120),
            strict=True,
        )
    ]
    for reader in ("tiff", "openslide"):
        with Slide(path, reader) as slide, ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda r: read_region(slide, r, 256, 256), regions * 2))
            expected = [read_region(slide, region, 256, 256) for region in regions]
        assert all((a == b).all() for a, b in zip(found, expected * 2, strict=True))


GIANT = """
import resource, sys
from pathlib import Path
from slidemill.slides.overview import read_overview
from slidemill.slides.reader import Slide
with Slide(Path(sys.argv[1])) as slide:
    assert len(slide.level_dimensions) == 1
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    overview = read_overview(slide, 32.0, 32.0, threads=2)
assert not overview.unreadable.any()
assert 100 < overview.pixels.mean() < 140, overview.pixels.mean()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tiled", "striped", "uncompressed in one strip"])
def test_a_giant_of_one_level_is_read_in_bounded_memory(tmp_path, kind):
    """1.2 GB of pixels; what is held grows by a fifth of that at most."""
    edge = 20_000
    path = tmp_path / "giant.tif"
    options = {
        "tiled": {"tile": (512, 512), "compression": "deflate"},
        "striped": {"rowsperstrip": 64, "compression": "deflate"},
        "uncompressed in one strip": {"rowsperstrip": edge},
    }[kind]
    pixels = np.memmap(tmp_path / "raw", np.uint8, "w+", shape=(edge, edge, 3))
    pixels[:] = 120
    tifffile.imwrite(path, pixels, photometric="rgb", **options)
    del pixels
    (tmp_path / "raw").unlink()
    done = subprocess.run(
        [sys.executable, "-c", GIANT, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    path.unlink()
    assert int(done.stdout) < 240
