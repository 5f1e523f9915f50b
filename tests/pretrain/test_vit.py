import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from slidemill.pretrain.packing import Sequences, pack
from slidemill.pretrain.positions import positions_2d
from slidemill.pretrain.vit import Block, SlideTransformer


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(make):
    """A module whose biases and norms are not at their start, where a test would not see them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = make()
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1:
                nn.init.normal_(parameter, mean="norm.weight" in name, std=0.3)
    return module.eval()


@pytest.fixture(params=["attention", "input"])
def encoder(request):
    return drawn(lambda: SlideTransformer(6, 32, 3, 4, position_use=request.param))


def bag(count, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 6)).astype(np.float32)
    return features, np.stack([np.arange(count) % 7, np.arange(count) // 7], axis=1)


def torchs_own(block):
    """PyTorch's transformer layer with the weights of a block."""
    width = block.project.out_features
    layer = nn.TransformerEncoderLayer(
        width, block.heads, 4 * width, 0.0, functional.gelu, batch_first=True, norm_first=True
    )
    state = {
        "self_attn.in_proj_weight": block.query_key_value.weight,
        "self_attn.in_proj_bias": block.query_key_value.bias,
    }
    parts = {
        "self_attn.out_proj": block.project,
        "linear1": block.mlp[0],
        "linear2": block.mlp[2],
        "norm1": block.attention_norm,
        "norm2": block.mlp_norm,
    }
    for name, part in parts.items():
        state |= {f"{name}.weight": part.weight, f"{name}.bias": part.bias}
    layer.load_state_dict(state)
    return layer


def test_a_block_is_torchs_transformer_layer_on_each_sequence():
    block, lengths = drawn(lambda: Block(32, 4)), [9, 1, 30]
    tokens = torch.randn(40, 32, generator=torch.Generator().manual_seed(0))
    layer = torchs_own(block)  # in training mode, which has no fast path; there is no dropout
    expected = torch.cat([layer(part[None])[0] for part in tokens.split(lengths)])
    torch.testing.assert_close(
        block(tokens, Sequences.of(lengths), None), expected, rtol=0, atol=1e-5
    )


def test_places_of_a_block_enter_queries_and_keys_alone():
    """As in torch's attention with query = key = tokens + places, value = tokens."""
    block = drawn(lambda: Block(32, 4))
    generator = torch.Generator().manual_seed(0)
    tokens, places = (torch.randn(12, 32, generator=generator) for _ in range(2))
    own, normed = torchs_own(block).self_attn, block.attention_norm(tokens)
    placed = (normed + places)[None]
    mixed = tokens + own(placed, placed, normed[None], need_weights=False)[0][0]
    expected = mixed + block.mlp(block.mlp_norm(mixed))
    got = block(tokens, Sequences.of([12]), places)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_the_encoder_is_torchs_layers_between_its_embedding_and_its_norm():
    encoder = drawn(lambda: SlideTransformer(6, 32, 3, 4, position_use="input"))
    encoder.set_moments(np.full(6, 0.5, np.float32), np.full(6, 2.0, np.float32))
    features, grid = bag(20)
    packed = pack([(features, grid)])
    tiles = encoder.embed_norm(encoder.embed((packed.features - 0.5) / 2.0))
    code = positions_2d(packed.positions, 32, encoder.position_base)
    tokens = torch.cat([encoder.class_token[None], tiles + encoder.position_scale * code])
    shown = [encoder.norm(tokens[0])]
    for block in encoder.layers:
        tokens = torchs_own(block)(tokens[None])[0]
        shown.append(encoder.norm(tokens[0]))
    encoded = encoder.encode(packed, layers=True)
    tokens = encoder.norm(tokens)
    torch.testing.assert_close(encoded.cls[0], tokens[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(encoded.tokens, tokens[1:], rtol=0, atol=1e-5)
    torch.testing.assert_close(encoded.layers[:, 0], torch.stack(shown), rtol=0, atol=1e-5)


def test_the_last_layer_is_the_embedding(encoder):
    encoded = encoder.encode(pack([bag(5), bag(9)]), layers=True)
    assert encoded.layers.shape == (4, 2, 32)
    assert torch.equal(encoded.layers[-1], encoded.cls)
    first = encoder.norm(encoder.class_token).expand(2, -1)
    assert torch.equal(encoded.layers[0], first)


def test_the_order_of_tiles_does_not_matter_but_their_places_do(encoder):
    features, grid = bag(20)
    order = np.random.default_rng(1).permutation(20)
    with torch.no_grad():
        plain, turned, mixed = (
            encoder.encode(pack([crop]))
            for crop in ((features, grid), (features[order], grid[order]), (features, grid[order]))
        )
    torch.testing.assert_close(turned.cls, plain.cls, rtol=0, atol=1e-5)
    torch.testing.assert_close(turned.tokens, plain.tokens[order], rtol=0, atol=1e-5)
    assert (mixed.cls - plain.cls).abs().max() > 1e-4


def test_weights_are_its_sizes():
    """12 x 768 is a ViT-B but for its patches."""
    with torch.device("meta"):
        encoder = SlideTransformer(1536, 768, 12, 12)
    count = sum(p.numel() for p in encoder.parameters())
    width = 768
    block = 12 * width**2 + 9 * width + 4 * width  # weights, biases of linear maps, norms
    embedding = 1536 * width + width + 2 * width
    assert count == 12 * block + embedding + 2 * width + 2 * width
