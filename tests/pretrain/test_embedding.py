import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slidemill.artifacts.formats import EMBEDDING
from slidemill.errors import SlideError, WeightsError
from slidemill.pretrain.embedding import embed_slide, embed_with_controls, shuffle_tiles
from slidemill.pretrain.packing import pack
from slidemill.pretrain.vit import SlideTransformer


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def make(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SlideTransformer(dim=6, width=16, depth=2, heads=2).eval()


@pytest.fixture(scope="module")
def encoder():
    return make(0)


def bag(tiles, seed=0):
    rng = np.random.default_rng(seed)
    cells = rng.choice(400, tiles, replace=False)
    grid = np.stack([cells % 20, cells // 20], axis=1).astype(np.int64)
    return rng.normal(size=(tiles, 6)).astype(np.float32), grid


def test_readouts_are_those_of_the_encoder(encoder):
    features, grid = bag(12)
    found = embed_slide(encoder, features, grid, "cpu")
    with torch.no_grad():
        expected = encoder.encode(pack([(features, grid - grid.min(axis=0))]), layers=True)
    np.testing.assert_array_equal(found.cls, expected.cls[0].numpy())
    np.testing.assert_allclose(found.mean_tokens, expected.tokens.numpy().mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(found.layers, expected.layers[:, 0].numpy())
    assert found.layers.shape == (3, 16)
    # Layers are read through the norm that the last one has.
    np.testing.assert_array_equal(found.layers[-1], found.cls)
    assert {array.dtype for array in found.arrays().values()} == {np.dtype(np.float32)}


def test_where_in_the_slide_the_tissue_lies_changes_nothing(encoder):
    features, grid = bag(12)
    here = embed_slide(encoder, features, grid, "cpu")
    there = embed_slide(encoder, features, grid + np.array([1000, 77]), "cpu")
    np.testing.assert_array_equal(here.layers, there.layers)


def test_stored_half_precision_and_explicit_float32_are_the_same_embedding(encoder):
    features, grid = bag(12)
    half = features.astype(np.float16)
    plain = embed_slide(encoder, half.astype(np.float32), grid, "cpu", "fp32")
    for precision in ("auto", "fp32"):
        found = embed_slide(encoder, half, grid, "cpu", precision)
        np.testing.assert_array_equal(found.cls, plain.cls)


def test_bfloat16_is_near_and_its_embedding_is_float32(encoder):
    features, grid = bag(12)
    plain = embed_slide(encoder, features, grid, "cpu", "fp32").arrays()
    for name, array in embed_slide(encoder, features, grid, "cpu", "bf16").arrays().items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, plain[name], atol=0.1)
        if name != "layers":
            assert not np.array_equal(array, plain[name])


def test_two_tiles_may_lie_in_one_place(encoder):
    features, grid = bag(5)
    grid[1] = grid[0]
    found = embed_slide(encoder, features, grid, "cpu")
    assert all(np.isfinite(array).all() for array in found.arrays().values())


def test_one_tile_is_a_slide(encoder):
    features, grid = bag(1)
    found = embed_with_controls(
        encoder, make(1), features, grid, seed=0, slide_id="s", device="cpu"
    )
    np.testing.assert_array_equal(found["shuffled_cls"], found["cls"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_fail_the_slide(encoder, bad):
    features, grid = bag(7)
    features[2, 3] = features[4, 0] = bad
    with pytest.raises(SlideError, match=r"not-finite: .* 2 of 7 tiles.*recompute=features"):
        embed_slide(encoder, features, grid, "cpu")


def test_no_tiles_other_widths_and_other_counts_are_refused(encoder):
    features, grid = bag(4)
    with pytest.raises(SlideError, match="no-tiles"):
        embed_slide(encoder, features[:0], grid[:0], "cpu")
    with pytest.raises(WeightsError, match="width 6"):
        embed_slide(encoder, features[:, :5], grid, "cpu")
    with pytest.raises(ValueError, match="positions"):
        embed_slide(encoder, features, grid[:3], "cpu")


def test_an_encoder_with_damaged_weights_is_refused():
    broken = make(0)
    with torch.no_grad():
        broken.norm.weight[0] = torch.nan
    with pytest.raises(WeightsError, match="weights are damaged"):
        embed_slide(broken, *bag(4), "cpu")


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 40), st.integers(0, 2**40), st.text(max_size=8))
def test_shuffled_tiles_are_the_same_tiles_each_time(count, seed, slide_id):
    features = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    found = shuffle_tiles(features, seed, slide_id)
    np.testing.assert_array_equal(found, shuffle_tiles(features, seed, slide_id))
    np.testing.assert_array_equal(np.sort(found, axis=0), features)
    np.testing.assert_array_equal(features, np.arange(2 * count).reshape(count, 2))


def test_slides_and_seeds_have_permutations_of_their_own():
    features = np.arange(50)[:, None]
    asked = [(0, "s1"), (0, "s2"), (1, "s1")]
    orders = {tuple(shuffle_tiles(features, *one)[:, 0]) for one in asked}
    assert len(orders) == 3


def test_controls_are_the_fields_of_the_format_and_differ_in_one_thing_each(encoder):
    features, grid = bag(30)
    initial = make(1)
    found = embed_with_controls(
        encoder, initial, features, grid, seed=5, slide_id="s1", device="cpu"
    )
    assert set(found) == {field.name for field in EMBEDDING.fields}
    np.testing.assert_array_equal(found["cls"], embed_slide(encoder, features, grid, "cpu").cls)
    np.testing.assert_array_equal(
        found["random_init_layers"], embed_slide(initial, features, grid, "cpu").layers
    )
    # To exact attention, tiles that change places are positions that are permuted.
    order = np.argsort(shuffle_tiles(np.arange(30)[:, None], 5, "s1")[:, 0])
    permuted = embed_slide(encoder, features, grid[order], "cpu")
    np.testing.assert_allclose(found["shuffled_cls"], permuted.cls, atol=1e-5)
    np.testing.assert_allclose(found["shuffled_mean_tokens"], permuted.mean_tokens, atol=1e-5)
    assert np.abs(found["shuffled_cls"] - found["cls"]).max() > 1e-3
