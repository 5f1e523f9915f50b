"""Networks as tile encoders, from bytes to features."""

import numpy as np
import pytest
import torch

from slidemill.errors import ConfigError
from slidemill.features.builders.timm import build
from slidemill.features.network import Network, Tokens
from slidemill.features.preprocess import resize_by_products
from slidemill.features.spec import EncoderSpec, Preprocessing
from slidemill.features.torch_encoder import TorchEncoder

HALF = (0.5, 0.5, 0.5)
RESIZING = Preprocessing(32, 32, "bicubic", HALF, HALF)
EXACT = Preprocessing(None, 32, "bicubic", HALF, HALF)
TILES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (7, 48, 48, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def network():
    options = {
        "img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3,
        "reg_tokens": 2,
    }  # fmt: skip
    spec = EncoderSpec(
        name="tiny", builder="timm", outputs=("cls", "mean", "cls+mean"), width=24, tile_px=32,
        mpp=None, precision="fp32", licence="", page="",
        arguments={"model": "vit_small_patch16_224", "options": options},
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(spec).eval().requires_grad_(False)


@pytest.mark.parametrize(("output", "dim"), [("cls", 24), ("mean", 24), ("cls+mean", 48)])
def test_features_have_their_length_and_are_float32(network, output, dim):
    encoder = TorchEncoder(network, RESIZING, output, tokens=False)
    found = encoder(TILES)
    assert encoder.dim == dim
    assert found.features.shape == (7, dim)
    assert found.features.dtype == torch.float32
    assert found.tokens is None
    assert torch.isfinite(found.features).all()


def test_the_feature_is_what_the_network_says_of_the_prepared_tile(network):
    encoder = TorchEncoder(network, RESIZING, "mean", tokens=True)
    found = encoder(TILES)
    raw = network.body.forward_features(encoder.preprocess(TILES))
    assert torch.allclose(found.features, raw[:, 3:].mean(1), atol=1e-6)
    assert found.tokens.shape == (7, 4, 4, 24)
    assert torch.equal(found.tokens.reshape(7, 16, 24), raw[:, 3:])


def test_a_feature_does_not_depend_on_its_batch(network):
    encoder = TorchEncoder(network, RESIZING, "cls+mean", tokens=False)
    together = encoder(TILES).features
    alone = torch.cat([encoder(TILES[i : i + 1]).features for i in range(7)])
    backwards = encoder(TILES.flip(0)).features.flip(0)
    assert (together - alone).abs().max() < 1e-5
    assert (together - backwards).abs().max() < 1e-5


def test_autocast_changes_little_and_gives_float32(network):
    encoder = TorchEncoder(network, RESIZING, "cls+mean", tokens=True)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = encoder(TILES)
    exact = encoder(TILES)
    assert reduced.features.dtype == torch.float32
    similar = torch.cosine_similarity(reduced.features, exact.features)
    assert similar.min() > 0.999


@pytest.mark.parametrize("reduced", [False, True])
def test_it_compiles_in_one_graph(network, monkeypatch, reduced):
    # Resizing as on a GPU, where compiling pays.
    monkeypatch.setattr("slidemill.features.preprocess.resize", resize_by_products)
    encoder = TorchEncoder(network, RESIZING, "cls+mean", tokens=True)
    compiled = torch.compile(encoder, backend="eager", fullgraph=True, dynamic=False)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=reduced):
        found, expected = compiled(TILES), encoder(TILES)
    assert torch.allclose(found.features, expected.features, atol=1e-5)
    assert torch.allclose(found.tokens, expected.tokens, atol=1e-5)


def test_it_can_be_traced_whole(network):
    encoder = TorchEncoder(network, RESIZING, "cls+mean", tokens=True)
    exported = torch.export.export(encoder, (TILES,)).module()
    assert torch.allclose(exported(TILES).features, encoder(TILES).features, atol=1e-5)


def test_tiles_of_a_size_that_is_not_taken_are_refused_before_and_after(network):
    encoder = TorchEncoder(network, EXACT, "cls", tokens=False)
    assert encoder.tile_px == 32
    with pytest.raises(ConfigError, match=r"48 px.* exactly 32 px"):
        encoder.check(48)
    with pytest.raises(ConfigError, match=r"48 px.* exactly 32 px"):
        encoder(TILES)
    assert encoder(TILES[:, :32, :32]).features.shape == (7, 24)
    assert TorchEncoder(network, RESIZING, "cls", tokens=False).tile_px is None


def test_what_a_network_does_not_have_cannot_be_asked_for():
    class Pooling(Network):
        def forward(self, images):
            return Tokens(pooled=images.mean((2, 3)))

    bare = Pooling(torch.nn.Identity(), 3, 0)
    assert TorchEncoder(bare, RESIZING, "pooled", tokens=False)(TILES).features.shape == (7, 3)
    for output, tokens in (("cls", False), ("mean", False), ("cls+mean", False), ("pooled", True)):
        with pytest.raises(ValueError, match="the network has no"):
            TorchEncoder(bare, RESIZING, output, tokens=tokens)(TILES)
