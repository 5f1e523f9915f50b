import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.color import hed_from_rgb, rgb2hed, rgb_from_hed

from conftest import ROOT
from slidemill.features.hed_texture import COLUMNS, DIM, columns_table, encode
from slidemill.features.stain import separate_stains

NAMES = [column.name for column in COLUMNS]
RNG = np.random.default_rng(0)


def named(tile):
    return dict(zip(NAMES, encode(tile[None])[0].tolist(), strict=True))


def stained(haematoxylin, eosin):
    """A tile of given amounts of stain, (T, T, 3) uint8."""
    zero = np.zeros_like(haematoxylin)
    density = np.stack([haematoxylin, eosin, zero], axis=-1) @ rgb_from_hed
    return np.rint(255 * np.exp(-density)).astype(np.uint8)


def tile_with_discs(count, size=256, radius=8):
    amount = np.full((size, size), 0.05)
    y, x = np.mgrid[:size, :size]
    for number in range(count):
        cx, cy = 32 + 48 * (number % 5), 32 + 48 * (number // 5)
        amount[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = 1.0
    return stained(amount, np.full((size, size), 0.3))


def test_the_document_has_this_table():
    text = (ROOT / "docs" / "encoders" / "hed-texture.md").read_text(encoding="utf-8")
    assert columns_table() in text
    assert DIM == 64
    assert len(set(NAMES)) == DIM


def test_stains_are_scikit_images():
    tile = RNG.integers(1, 256, (40, 40, 3), dtype=np.uint8)
    theirs = rgb2hed(tile).transpose(2, 0, 1) * -np.log(1e-6)
    assert np.allclose(separate_stains(tile), theirs, atol=1e-4)
    assert np.allclose(hed_from_rgb @ rgb_from_hed, np.eye(3), atol=1e-6)


def test_glass_and_black_are_finite_and_empty():
    white = named(np.full((64, 64, 3), 255, np.uint8))
    assert white["glass_fraction"] == 1
    assert white["haematoxylin_mean"] == white["eosin_mean"] == white["nuclear_density"] == 0
    assert all(np.isfinite(list(named(np.zeros((64, 64, 3), np.uint8)).values())))


def test_pure_haematoxylin():
    found = named(stained(np.full((64, 64), 0.8), np.zeros((64, 64))))
    assert found["haematoxylin_mean"] == pytest.approx(0.8, abs=0.02)
    assert found["eosin_mean"] == pytest.approx(0, abs=0.02)
    assert found["nuclear_fraction"] == 1
    assert found["haematoxylin_share"] == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("count", [0, 1, 7, 20])
def test_nuclei_are_counted(count):
    assert named(tile_with_discs(count))["nuclear_density"] * 6.5536 == pytest.approx(count)


def test_shares_sum_to_one():
    found = named(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    assert sum(value for name, value in found.items() if name.startswith("lbp_")) == pytest.approx(
        1
    )


def test_a_quarter_turn_changes_nothing():
    tile = tile_with_discs(11)
    assert np.allclose(encode(tile[None]), encode(np.rot90(tile)[None]), rtol=1e-3, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([32, 48, 65]))
def test_a_tile_does_not_depend_on_its_batch(seed, size):
    tiles = np.random.default_rng(seed).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    together = encode(tiles)
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    assert (together[::-1] == encode(tiles[::-1])).all()
    assert (together[1:2] == encode(tiles[1:2])).all()


def test_other_arrays_are_refused():
    for bad in (
        np.zeros((1, 64, 64, 3)),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
    ):
        with pytest.raises(ValueError, match="uint8"):
            encode(bad)
    assert encode(np.zeros((0, 64, 64, 3), np.uint8)).shape == (0, DIM)


def test_real_tiles_with_more_nuclei_have_higher_nuclear_columns(shared):
    folder = shared / "tiles" / "histolab_fixtures"
    read = [
        named(np.asarray(Image.open(folder / f"{kind}-nuclei-score-level0.png").convert("RGB")))
        for kind in ("high", "very-low")
    ]
    assert read[0]["nuclear_density"] > 2 * read[1]["nuclear_density"]
    assert read[0]["blob_5"] > read[1]["blob_5"]
