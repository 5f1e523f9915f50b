import h5py
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from slidemill.tiles.coverage import mask_fraction
from slidemill.tiles.grid import exact_grid, padded_fraction, tile_geometry

mpps = st.floats(0.1, 1.0)


@given(
    mpps, mpps, st.integers(32, 300), st.integers(0, 20), st.integers(1, 9000), st.integers(1, 9000)
)
def test_the_grid_is_global_exact_and_row_major(mpp_x, mpp_y, tile_px, overlap, width, height):
    geometry = tile_geometry(tile_px, 2.0, overlap, mpp_x, mpp_y)
    assert np.isclose(geometry.width * mpp_x, tile_px * 2.0)
    assert np.isclose(geometry.height * mpp_y, tile_px * 2.0)
    coords = exact_grid(geometry, width, height)
    x, y = np.unique(coords[:, 0]), np.unique(coords[:, 1])
    assert coords.dtype == np.int64
    assert len(coords) == len(x) * len(y)
    assert (coords[0] == 0).all()
    assert (np.lexsort((coords[:, 0], coords[:, 1])) == np.arange(len(coords))).all()
    assert np.abs(x - np.arange(len(x)) * geometry.step_x).max() <= 0.5
    assert x.max() < width
    assert y.max() < height
    # The last corner and the one that fell outside are each rounded by half a pixel at most.
    assert x.max() + geometry.step_x + 1.0 >= width


def test_resolutions_of_x_and_y_are_apart():
    geometry = tile_geometry(256, 0.5, 0, 0.25, 0.5)
    assert (geometry.width, geometry.height) == (512, 256)
    assert exact_grid(geometry, 1024, 512).tolist() == [[0, 0], [512, 0], [0, 256], [512, 256]]


def test_padding_of_the_last_tiles():
    geometry = tile_geometry(100, 1.0, 0, 1.0, 1.0)
    coords = exact_grid(geometry, 150, 120)
    found = padded_fraction(coords, geometry, 150, 120)
    assert np.allclose(found, [0, 0.5, 0.8, 0.9])


def test_coverage_is_exact_for_tiles_that_cut_mask_pixels():
    mask = np.zeros((10, 10), np.uint8)
    mask[2:6, 3:7] = 1
    geometry = tile_geometry(50, 1.0, 0, 1.0, 1.0)
    coords = np.array([[30, 20], [25, 15], [0, 0], [68, 58], [500, 500]])
    found = mask_fraction(mask, 10.0, 10.0, coords, geometry)
    expected = [40 * 40, 40 * 40, 20 * 30, 2 * 2, 0]
    assert np.allclose(found, np.array(expected) / 2500, atol=1e-6)


@given(st.integers(0, 2**32 - 1), mpps)
def test_tissue_is_neither_lost_nor_made(seed, mpp):
    mask = np.random.default_rng(seed).random((30, 40)) < 0.5
    geometry = tile_geometry(64, 1.0, 0, mpp, mpp)
    coords = exact_grid(geometry, 40 * 8, 30 * 8)
    area = mask_fraction(mask, 8.0, 8.0, coords, geometry) * geometry.width * geometry.height
    # Corners are rounded to pixels, so tiles may overlap by one, or leave one out.
    assert abs(area.sum() - mask.sum() * 64) <= 0.06 * 30 * 40 * 64 * max(1, mpp)


def test_nearly_tridents_tiles_on_a_real_slide(shared):
    """The exact grid at mpp equals a magnification grid where the slide is of that resolution."""
    with h5py.File(shared / "golden" / "trident_coords_CMU-1-Small-Region.h5") as file:
        theirs = {tuple(c) for c in file["coords"][:].tolist()}
    geometry = tile_geometry(256, 0.499, 0, 0.499, 0.499)
    ours = {tuple(c) for c in exact_grid(geometry, 2220, 2967).tolist()}
    assert len(theirs) == 58
    assert theirs <= ours
