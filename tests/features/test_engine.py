import h5py
import numpy as np
import pytest
import tifffile

from slidemill.errors import SlideCode, SlideError
from slidemill.features import rgb_mean
from slidemill.features.engine import encode_slide, read_batches
from slidemill.slides.reader import Slide
from slidemill.tiles.grid import exact_grid, tile_geometry


@pytest.mark.parametrize(("batch_size", "threads"), [(1, 1), (7, 3), (1000, 2)])
def test_batches_and_threads_change_nothing(disc_slide, batch_size, threads):
    geometry = tile_geometry(100, 0.5, 0, 0.5, 0.5)
    coords = exact_grid(geometry, 1000, 800)
    with Slide(disc_slide) as slide:
        found, numbers = encode_slide(slide, coords, geometry, rgb_mean.encode, batch_size, threads)
        pixels = slide.read(0, 0, 0, 1000, 800)
    blocks = pixels.reshape(8, 100, 10, 100, 3).mean(axis=(1, 3)).reshape(-1, 3)
    assert np.abs(found - blocks).max() < 1e-3
    assert numbers.tolist() == list(range(len(coords)))


def test_batches_have_the_order_of_the_coordinates(disc_slide):
    geometry = tile_geometry(64, 1.0, 0, 0.5, 0.5)
    coords = exact_grid(geometry, 1000, 800)[::-1]
    with Slide(disc_slide) as slide:
        batches = list(read_batches(slide, coords, geometry, 5, 2))
        single = list(read_batches(slide, coords[7:8], geometry, 5, 2))
    assert [len(batch.pixels) for batch in batches[:-1]] == [5] * (len(batches) - 1)
    assert np.concatenate([batch.numbers for batch in batches]).tolist() == list(range(len(coords)))
    assert (batches[1].pixels[2] == single[0].pixels[0]).all()


def test_a_tile_that_does_not_decode_is_left_out_and_costs_no_other(disc_slide, tmp_path):
    path = tmp_path / "damaged.tif"
    path.write_bytes(disc_slide.read_bytes())
    with tifffile.TiffFile(path) as file:
        damaged = file.pages[0].dataoffsets[1]
    with path.open("r+b") as stream:
        stream.seek(damaged)
        stream.write(b"\0" * 64)
    geometry = tile_geometry(128, 0.5, 0, 0.5, 0.5)
    coords = exact_grid(geometry, 1000, 800)
    with Slide(path) as slide:
        assert slide.segments[0] == (256, 256)
        features, numbers = encode_slide(slide, coords, geometry, rgb_mean.encode, 3, 2)
    lost = {tuple(c) for c in np.delete(coords, numbers, axis=0).tolist()}
    assert lost == {(256, 0), (384, 0), (256, 128), (384, 128)}
    with Slide(disc_slide) as slide:
        sound, _ = encode_slide(slide, coords, geometry, rgb_mean.encode, 3, 2)
    assert (features == sound[numbers]).all()


def test_a_slide_of_which_no_tile_decodes_has_failed(shared):
    geometry = tile_geometry(8, 0.499, 0, 0.499, 0.499)
    coords = np.zeros((3, 2), np.int64)
    path = shared / "slides" / "openslide-unreadable.svs"
    with Slide(path) as slide, pytest.raises(SlideError) as caught:
        encode_slide(slide, coords, geometry, rgb_mean.encode, 2, 2)
    assert caught.value.code == SlideCode.READ_ERROR


def test_mean_colours_are_tridents_where_nothing_is_padded(shared):
    with h5py.File(shared / "golden" / "trident_features_rgbmean_CMU-1-Small-Region.h5") as file:
        coords, theirs = file["coords"][:], 255 * file["features"][:]
    geometry = tile_geometry(256, 0.499, 0, 0.499, 0.499)
    inside = (coords[:, 0] + 256 <= 2220) & (coords[:, 1] + 256 <= 2967)
    with Slide(shared / "slides" / "CMU-1-Small-Region.svs") as slide:
        ours, _ = encode_slide(slide, coords, geometry, rgb_mean.encode, 16, 2)
    assert inside.sum() > 30
    assert np.abs(ours - theirs)[inside].max() < 1.0
    # They pad with black, we with white.
    assert (ours[~inside].mean(axis=1) > theirs[~inside].mean(axis=1)).all()
