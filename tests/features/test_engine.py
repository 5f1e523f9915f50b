import h5py
import numpy as np
import pytest
import tifffile

from features.conftest import COORDS, GEOMETRY, engine_of, run_engine
from slidemill.errors import SlideCode
from slidemill.features.build import HostEncoder
from slidemill.features.chunks import Source
from slidemill.features.engine import Failed, Work
from slidemill.features.pool import Crew
from slidemill.features.runners import HostRunner
from slidemill.slides.reader import Slide
from slidemill.tiles.grid import exact_grid, tile_geometry

CREWS = [Crew(1, 1), Crew(1, 3), Crew(2, 2)]


@pytest.fixture(scope="module")
def blocks(disc_slide):
    """Mean colour of every tile of the grid."""
    with Slide(disc_slide) as slide:
        pixels = slide.read(0, 0, 0, 1000, 800)
    return pixels.reshape(8, 100, 10, 100, 3).mean(axis=(1, 3)).reshape(-1, 3)


@pytest.mark.parametrize("crew", CREWS, ids=lambda crew: f"{crew.processes}x{crew.threads}")
@pytest.mark.parametrize(("slots", "tiles"), [(1, 1), (3, 7), (6, 200)])
def test_features_are_those_of_their_tiles_whatever_the_readers_and_chunks(
    works, blocks, crew, slots, tiles
):
    sink = run_engine(works, crew=crew, slots=slots, tiles=tiles)
    for number in range(3):
        assert np.abs(sink.of(number) - blocks).max() < 1e-3
        assert 0.0 <= sink.outcomes[number].waited <= 1.0


def test_tiles_are_encoded_in_the_same_order_every_time(works):
    orders = {tuple(run_engine(works, crew=crew, tiles=7).batches) for crew in CREWS for _ in "ab"}
    assert len(orders) == 1
    assert sum(count for _, count in orders.pop()) == 3 * len(COORDS)


def damaged(source, folder, pieces):
    """A copy of a slide of which stored pieces do not decode."""
    path = folder / f"damaged-{len(pieces)}.tif"
    path.write_bytes(source.read_bytes())
    with tifffile.TiffFile(path) as file:
        offsets = [file.pages[0].dataoffsets[piece] for piece in pieces]
    with path.open("r+b") as stream:
        for offset in offsets:
            stream.seek(offset)
            stream.write(b"\0" * 64)
    return path


def test_a_tile_that_does_not_decode_is_left_out_and_costs_no_other(disc_slide, tmp_path):
    geometry = tile_geometry(128, 0.5, 0, 0.5, 0.5)
    coords = exact_grid(geometry, 1000, 800)
    path = damaged(disc_slide, tmp_path, [1])
    with Slide(path) as slide:
        assert slide.segments[0] == (256, 256)
    works = [Work(i, Source(p, "auto", geometry), coords) for i, p in enumerate([path, disc_slide])]
    sink = run_engine(works, tile_px=128, tiles=3)
    lost = np.delete(np.arange(len(coords)), sink.outcomes[0].sound)
    assert sorted(map(tuple, coords[lost].tolist())) == [
        (256, 0), (256, 128), (384, 0), (384, 128),
    ]  # fmt: skip
    assert len(sink.outcomes[1].sound) == len(coords)
    assert (sink.of(0) == sink.of(1)[sink.outcomes[0].sound]).all()


def test_a_slide_of_which_too_many_tiles_do_not_decode_has_failed(disc_slide, tmp_path):
    geometry = tile_geometry(128, 0.5, 0, 0.5, 0.5)
    coords = exact_grid(geometry, 1000, 800)
    source = Source(damaged(disc_slide, tmp_path, [1, 2]), "auto", geometry)
    works = [Work(0, source, coords), Work(1, Source(disc_slide, "auto", geometry), coords)]
    sink = run_engine(works, tile_px=128, max_unreadable=0.1)
    assert isinstance(sink.outcomes[0], Failed)
    assert sink.outcomes[0].error.code == SlideCode.READ_ERROR
    assert "features.max_unreadable = 0.1" in sink.outcomes[0].error.message
    assert len(sink.of(1)) == len(coords)
    assert len(run_engine(works, tile_px=128, max_unreadable=0.2).of(0)) == len(coords) - 8


def test_a_slide_of_which_no_tile_decodes_has_failed(shared):
    geometry = tile_geometry(8, 0.499, 0, 0.499, 0.499)
    source = Source(shared / "slides" / "openslide-unreadable.svs", "auto", geometry)
    sink = run_engine([Work(0, source, np.zeros((3, 2), np.int64))], tile_px=8, max_unreadable=1.0)
    assert sink.outcomes[0].error.code == SlideCode.READ_ERROR
    assert "none of its 3 tiles decodes" in sink.outcomes[0].error.message


def test_a_slide_that_is_gone_has_failed_and_costs_no_other(works, tmp_path, blocks):
    gone = Work(3, Source(tmp_path / "gone.tif", "auto", GEOMETRY), COORDS)
    sink = run_engine([works[0], gone, works[1]], tiles=9, slots=3)
    assert sink.outcomes[3].error.code == SlideCode.FILE_MISSING
    assert np.abs(sink.of(1) - blocks).max() < 1e-3


def test_a_slide_that_is_too_coarse_has_failed(disc_slide):
    source = Source(disc_slide, "auto", tile_geometry(100, 0.1, 0, 0.5, 0.5))
    sink = run_engine([Work(0, source, COORDS[:4])])
    assert sink.outcomes[0].error.code == SlideCode.TOO_COARSE


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_feature_that_is_not_finite_fails_its_slide_and_names_the_tile(works, blocks, value):
    def encode(tiles):
        means = tiles.mean(axis=(1, 2)).astype(np.float32)
        means[np.abs(means - blocks[33]).max(axis=1) < 1e-3] = value
        return means

    alike = {tuple(c) for c in COORDS[np.abs(blocks - blocks[33]).max(axis=1) < 1e-3].tolist()}
    runner = HostRunner(HostEncoder(encode, 3), "float32")
    sink = run_engine(works[:1], runner=runner)
    error = sink.outcomes[0].error
    assert error.code == SlideCode.NOT_FINITE
    assert any(f"(x, y) = ({x}, {y})" in error.message for x, y in alike)


def test_numbers_that_float16_does_not_hold_fail_the_slide(works):
    def encode(tiles):
        return np.full((len(tiles), 3), 7e4, np.float32)

    sink = run_engine(works[:1], runner=HostRunner(HostEncoder(encode, 3), "float16"))
    assert sink.outcomes[0].error.code == SlideCode.NOT_FINITE
    assert "float32" in sink.outcomes[0].error.message


def test_an_engine_is_used_for_several_buckets(works, blocks):
    with engine_of() as (engine, sink):
        engine.run(works[:1])
        engine.run([])
        engine.run(works[1:])
    assert all(np.abs(sink.of(number) - blocks).max() < 1e-3 for number in range(3))


def test_mean_colours_are_tridents_where_nothing_is_padded(shared):
    with h5py.File(shared / "golden" / "trident_features_rgbmean_CMU-1-Small-Region.h5") as file:
        coords, theirs = file["coords"][:], 255 * file["features"][:]
    geometry = tile_geometry(256, 0.499, 0, 0.499, 0.499)
    inside = (coords[:, 0] + 256 <= 2220) & (coords[:, 1] + 256 <= 2967)
    source = Source(shared / "slides" / "CMU-1-Small-Region.svs", "auto", geometry)
    ours = run_engine([Work(0, source, coords)], tile_px=256, tiles=16).of(0)
    assert inside.sum() > 30
    assert np.abs(ours - theirs)[inside].max() < 1.0
    # They pad with black, we with white.
    assert (ours[~inside].mean(axis=1) > theirs[~inside].mean(axis=1)).all()
