"""What every slide encoder is; on both that there are."""

import copy
import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter

from slidemill.errors import WeightsError
from slidemill.pretrain.attention import attend
from slidemill.pretrain.encoder import (
    ALIKE,
    align_keys,
    autocast,
    init_linear,
    queries_keys_values,
    wants_bf16,
)
from slidemill.pretrain.longnet import LongNet
from slidemill.pretrain.packing import pack
from slidemill.pretrain.positions import positions_2d
from slidemill.pretrain.vit import SlideTransformer

KINDS = {"exact": SlideTransformer, "longnet": LongNet}
DILATED = {"segments": (8, 16, 32), "ratios": (1, 2, 4)}
WIDTH, DEPTH = 32, 2


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(kind, seed=0, **kwargs):
    """An encoder whose biases and norms are not at their start, where a test would not see them."""
    kwargs = (DILATED if kind == "longnet" else {}) | kwargs
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = KINDS[kind](6, WIDTH, DEPTH, 4, **kwargs)
        for name, parameter in encoder.named_parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, mean="norm.weight" in name, std=0.3)
    encoder.set_moments(np.full(6, 0.5, np.float32), np.full(6, 2.0, np.float32))
    return encoder.eval()


@pytest.fixture(params=["exact-attention", "exact-input", "longnet-attention", "longnet-input"])
def encoder(request):
    kind, use = request.param.split("-")
    return made(kind, position_use=use)


def bag(count, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 6)).astype(np.float32)
    grid = np.stack([np.arange(count) % 7, np.arange(count) // 7], axis=1).astype(np.int64)
    return features, grid


def encode(encoder, *crops, hidden=None, layers=False):
    with torch.no_grad():
        return encoder.encode(pack(crops), hidden, layers=layers)


def gradients(module):
    return {name: p.grad for name, p in module.named_parameters()}


# --- packed batches ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["exact", "longnet"])
@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 70), min_size=2, max_size=5), st.floats(0.0, 1.0), st.integers(0, 9))
def test_a_bag_alone_and_in_a_batch_give_the_same(kind, lengths, share, seed):
    encoder = made(kind)
    crops = [bag(n, seed + i) for i, n in enumerate(lengths)]
    hidden = torch.from_numpy(np.random.default_rng(seed).random(sum(lengths)) < share)
    together = encode(encoder, *crops, hidden=hidden, layers=True)
    parts = zip(crops, hidden.split(lengths), together.tokens.split(lengths), strict=True)
    for i, (crop, mask, tokens) in enumerate(parts):
        alone = encode(encoder, crop, hidden=mask, layers=True)
        for a, b in (
            (alone.cls[0], together.cls[i]),
            (alone.layers[:, 0], together.layers[:, i]),
            (alone.tokens, tokens),
        ):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_shapes_and_the_layers_only_if_asked_for(encoder):
    plain, full = (encode(encoder, bag(5), bag(9), layers=layers) for layers in (False, True))
    assert plain.cls.shape == (2, WIDTH)
    assert plain.tokens.shape == (14, WIDTH)
    assert plain.layers.shape == (0, 2, WIDTH)
    assert full.layers.shape == (DEPTH + 1, 2, WIDTH)
    assert torch.equal(plain.cls, full.cls)
    assert torch.equal(full.layers[0, 0], full.layers[0, 1])  # before tiles have been seen
    assert not torch.allclose(full.layers[1, 0], full.layers[1, 1], atol=1e-3)


def test_thousands_of_tiles_go_at_once(encoder):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(10_000, 6)).astype(np.float32)
    assert encode(encoder, (features, rng.integers(0, 200, (10_000, 2)))).cls.isfinite().all()


# --- hidden tiles --------------------------------------------------------------------------------


def test_features_of_hidden_tiles_do_not_matter_and_those_of_others_do(encoder):
    features, grid = bag(40)
    hidden = torch.arange(40) % 3 == 0
    other = features.copy()
    other[hidden] = 1e3
    a, b = (encode(encoder, (x, grid), hidden=hidden, layers=True) for x in (features, other))
    for one, two in zip(a, b, strict=True):
        assert torch.equal(one, two)
    other[1] += 1.0
    c = encode(encoder, (other, grid), hidden=hidden)
    assert (c.cls - a.cls).abs().max() > 1e-4
    assert (c.tokens[0] - a.tokens[0]).abs().max() > 1e-4


def test_positions_of_hidden_tiles_stay(encoder):
    """All tokens are the mask token, so that tokens differ by their places alone."""
    features, grid = bag(12)
    hidden = torch.ones(12, dtype=torch.bool)
    tokens = encode(encoder, (features, grid), hidden=hidden).tokens
    assert torch.cdist(tokens, tokens).fill_diagonal_(1.0).min() > 1e-3
    moved = grid.copy()
    moved[4] += 3
    assert (encode(encoder, (features, moved), hidden=hidden).tokens[4] - tokens[4]).norm() > 1e-3


def test_hiding_no_tile_is_no_mask(encoder):
    nothing = torch.zeros(12, dtype=torch.bool)
    assert torch.equal(
        encode(encoder, bag(12), hidden=nothing).tokens, encode(encoder, bag(12)).tokens
    )


def test_a_hidden_tile_is_as_one_whose_embedding_is_the_mask_token(encoder, monkeypatch):
    features, grid = bag(9)
    hidden = torch.arange(9) == 4
    expected = encode(encoder, (features, grid), hidden=hidden)
    plain = encoder.embed_tiles

    def embed(tiles):
        embedded = plain(tiles).clone()
        embedded[4] = encoder.mask_token
        return embedded

    monkeypatch.setattr(encoder, "embed_tiles", embed)
    torch.testing.assert_close(encode(encoder, (features, grid)).tokens, expected.tokens)


# --- features and positions ----------------------------------------------------------------------


def test_features_are_standardised_by_the_encoders_own_moments(encoder):
    features, grid = bag(10)
    plain = encode(encoder, (features, grid)).cls
    mean, std = np.arange(6, dtype=np.float32), np.linspace(0.1, 30, 6, dtype=np.float32)
    encoder.set_moments(mean, std)
    again = encode(encoder, ((features - 0.5) / 2.0 * std + mean, grid)).cls
    torch.testing.assert_close(again, plain, rtol=0, atol=1e-5)


def test_features_in_half_precision_are_what_they_are_in_single(encoder):
    features, grid = bag(10)
    half = (100 * features).astype(np.float16)
    out = encode(encoder, (half, grid))
    assert out.cls.dtype == torch.float32
    assert torch.equal(out.cls, encode(encoder, (half.astype(np.float32), grid)).cls)


def test_tokens_and_places_are_float32_before_the_blocks_whatever_autocast_says(encoder):
    given = []
    hook = encoder.blocks()[0].register_forward_pre_hook(lambda _, args: given.append(args))
    packed = pack([bag(30)])
    with torch.no_grad(), autocast("cpu", True):
        encoder.encode(packed)
    encode(encoder, bag(30))
    hook.remove()
    (tokens, _, places), (exact_tokens, _, exact_places) = given
    assert tokens.dtype == torch.float32
    torch.testing.assert_close(tokens, exact_tokens, rtol=0.01, atol=0.05)  # of the embedding
    if encoder.position_use == "attention":
        assert places.dtype == torch.float32
        assert torch.equal(places, exact_places)
        code = encoder.position_scale * positions_2d(packed.positions, WIDTH, encoder.position_base)
        assert torch.equal(places[1:], code)
        assert places[0].abs().max() == 0.0  # of the class token
    else:
        assert places is None


@pytest.mark.parametrize("far", [16_896, 10**6])
def test_positions_far_out_are_told_apart_under_autocast(encoder, far):
    features, grid = bag(30)
    hidden = torch.ones(30, dtype=torch.bool)
    with torch.no_grad(), autocast("cpu", True):
        cast = encoder.encode(pack([(features, grid + far)]), hidden)
    assert cast.cls.dtype == cast.tokens.dtype == torch.float32
    assert cast.cls.isfinite().all()
    assert torch.cdist(cast.tokens, cast.tokens).fill_diagonal_(1.0).min() > 1e-3


def test_bf16_gives_nearly_what_fp32_gives(encoder):
    packed = pack([bag(30), bag(11)])
    with torch.no_grad(), autocast("cpu", True):
        cast = encoder.encode(packed).cls
    plain = encode(encoder, bag(30), bag(11)).cls
    assert not torch.equal(cast, plain)
    assert (cast - plain).norm() < 0.03 * plain.norm()


# --- training ------------------------------------------------------------------------------------


def test_every_parameter_shapes_the_embedding(encoder):
    hidden = torch.arange(40) % 4 == 0
    encoder.encode(pack([bag(40)]), hidden).cls.square().sum().backward()
    idle = [n for n, g in gradients(encoder).items() if g is None or not g.abs().max() > 0.0]
    assert idle == []


@pytest.mark.parametrize("bf16", [False, True])
def test_checkpointing_changes_neither_outputs_nor_gradients_and_keeps_less(encoder, bf16):
    packed, hidden = pack([bag(40), bag(9, 1)]), torch.arange(49) % 4 == 0
    found = []
    for checkpointing in (False, True):
        one, kept = copy.deepcopy(encoder), []
        one.checkpointing = checkpointing

        def note(tensor, kept=kept):
            kept.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t), autocast("cpu", bf16):
            out = one.encode(packed, hidden, layers=True)
            loss = sum((part.float() * part.float().cos()).sum() for part in out)
        loss.backward()
        found.append((out, gradients(one), sum(kept)))
    (plain, before, much), (again, after, little) = found
    for a, b in zip(plain, again, strict=True):
        assert torch.equal(a, b)
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient, atol=1e-6, rtol=1e-5)
    assert little < much / 3


def test_nothing_is_computed_twice_without_gradient(encoder, monkeypatch):
    encoder.checkpointing = True

    def refuse(*_, **__):
        raise AssertionError("checkpointed")

    monkeypatch.setattr("slidemill.pretrain.encoder.checkpoint", refuse)
    encode(encoder, bag(5))
    with pytest.raises(AssertionError, match="checkpointed"):
        encoder.encode(pack([bag(5)]))


def test_the_class_token_starts_away_from_the_pole_of_the_norm():
    norms = []
    for scale in (1.0, 0.0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            fresh = SlideTransformer(6, WIDTH, 1, 2)
        with torch.no_grad():
            fresh.class_token.mul_(scale)
        fresh.encode(pack([bag(12)])).cls[0, :16].sum().backward()
        norms.append(fresh.class_token.grad.norm().item())
    assert norms[0] < 0.3 * norms[1]


# --- initial weights -----------------------------------------------------------------------------


def test_linear_weights_are_drawn_as_glorot_and_bengio_say():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        part = torch.nn.Sequential(torch.nn.Linear(300, 100), torch.nn.LayerNorm(100))
        init_linear(part)
    weight, limit = part[0].weight, math.sqrt(6 / 400)
    assert weight.abs().max() < limit
    assert weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)
    assert part[0].bias.abs().max() == 0.0
    assert (part[1].weight == 1.0).all()


def test_keys_are_nearly_queries():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        linear = torch.nn.Linear(8, 24)
    query, key, value = linear.weight.detach().clone().chunk(3)
    align_keys(linear)
    for now, expected in zip(
        linear.weight.chunk(3), (query, 0.9 * query + 0.1 * key, value), strict=True
    ):
        torch.testing.assert_close(now, expected)
    assert ALIKE == 0.9
    assert linear.weight.requires_grad


@pytest.mark.parametrize("kind", ["exact", "longnet"])
def test_a_fresh_encoder_has_keys_like_its_queries_in_every_block(kind):
    limit = math.sqrt(6 / (4 * WIDTH))
    for block in made(kind).blocks():
        query, key, value = block.query_key_value.weight.detach().chunk(3)
        own = (key - 0.9 * query) / 0.1
        for part in (query, own, value):
            assert part.abs().max() <= limit + 1e-5
            assert part.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.1)
        both = torch.stack([query.flatten(), own.flatten(), value.flatten()])
        assert torch.corrcoef(both).triu(1).abs().max() < 0.15


def attention_of(encoder, grid, monkeypatch):
    """Attention of the first block of a fresh encoder among tiles of which nothing is known."""
    kept = []

    def note(query, key, value, sequences):
        kept.append((query, key))
        return attend(query, key, value, sequences)

    monkeypatch.setattr("slidemill.pretrain.vit.attend", note)
    hidden = torch.ones(len(grid), dtype=torch.bool)
    encode(encoder, (np.zeros((len(grid), 6), np.float32), grid), hidden=hidden)
    query, key = (x[1:, 0] for x in kept[0])
    return (query @ key.T / query.shape[1] ** 0.5).softmax(dim=1)


@pytest.mark.parametrize("use", ["attention", "input"])
def test_a_fresh_encoder_attends_to_neighbours_wherever_they_are(use, monkeypatch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = SlideTransformer(6, 256, 1, 1, position_use=use)
    grid = np.stack(np.meshgrid(np.arange(15), np.arange(15)), axis=-1).reshape(-1, 2)
    places = torch.from_numpy(grid).double()
    far = torch.cdist(places, places)
    found = [attention_of(fresh, grid + shift, monkeypatch) for shift in (0, 40, 1000)]
    for shares in found:
        assert (shares * far).sum(1).mean() < 0.6 * far.mean()
    near = [(shares * (far <= 1.5)).sum(1).mean().item() for shares in found]
    assert near == pytest.approx([near[0]] * 3, rel=0.2)


def test_positions_enter_queries_and_keys_and_not_values():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        linear, tokens, places = torch.nn.Linear(8, 24), torch.randn(5, 8), torch.randn(5, 8)
    placed, plain = linear(tokens + places), linear(tokens)
    expected = [*placed.chunk(3, dim=1)[:2], plain.chunk(3, dim=1)[2]]
    for got, wanted in zip(queries_keys_values(linear, tokens, places, 2), expected, strict=True):
        torch.testing.assert_close(got, wanted.unflatten(1, (2, 4)))
    for got, wanted in zip(
        queries_keys_values(linear, tokens, None, 2), plain.chunk(3, dim=1), strict=True
    ):
        assert torch.equal(got, wanted.unflatten(1, (2, 4)))


# --- the same network again ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["exact", "longnet"])
@pytest.mark.parametrize(
    "positions",
    [{}, {"position_base": 123.4, "position_scale": 0.7, "position_use": "input"}],
)
def test_sizes_make_the_same_network_again(kind, positions):
    encoder = made(kind, **positions)
    sizes = encoder.sizes()
    assert all(isinstance(value, str) for value in sizes.values())
    again = KINDS[kind].from_sizes(sizes)
    assert again.sizes() == sizes
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(encode(again, bag(40)).tokens, encode(encoder, bag(40)).tokens)


@pytest.mark.parametrize("kind", ["exact", "longnet"])
@pytest.mark.parametrize(
    "change",
    [{"position_base": 100.0}, {"position_scale": 1.0}, {"position_use": "input"}],
)
def test_the_position_code_is_part_of_the_network(kind, change):
    one, other = made(kind), made(kind, **change)
    assert one.sizes() != other.sizes()
    assert not torch.allclose(encode(one, bag(40)).cls, encode(other, bag(40)).cls, atol=1e-3)


@pytest.mark.parametrize("key", ["dim", "depth", "heads", "position_base", "position_use"])
def test_sizes_that_lack_one_or_are_no_numbers_are_refused(encoder, key):
    sizes = encoder.sizes()
    with pytest.raises((ValueError, WeightsError)):
        type(encoder).from_sizes(sizes | {key: "wide"})
    del sizes[key]
    with pytest.raises((KeyError, WeightsError), match=key):
        type(encoder).from_sizes(sizes)


@pytest.mark.parametrize("kind", ["exact", "longnet"])
def test_a_width_that_heads_do_not_divide_is_refused(kind):
    with pytest.raises(ValueError, match="4 x 3"):
        KINDS[kind](6, 16, 1, 3)


# --- compilation and precision -------------------------------------------------------------------


def test_auto_is_bf16_on_cuda_alone():
    found = {(p, d): wants_bf16(p, d) for p in ("auto", "fp32", "bf16") for d in ("cpu", "cuda:1")}
    assert [key for key, wants in found.items() if wants] == [
        ("auto", "cuda:1"),
        ("bf16", "cpu"),
        ("bf16", "cuda:1"),
    ]


def test_blocks_are_compiled_once_for_all_depths_lengths_and_uses():
    """As a step has it: a student with gradient, a teacher without, many blocks, other lengths."""
    torch._dynamo.reset()
    counter = CompileCounter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = SlideTransformer(6, WIDTH, 12, 4)
    teacher = copy.deepcopy(student).requires_grad_(False)
    for block in (*student.layers, *teacher.layers):
        block.compile(dynamic=True, backend=counter)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for lengths in ((40, 9), (20, 28, 1), (3,), (7, 7, 7, 7)):
            packed = pack([bag(n, n) for n in lengths])
            with torch.no_grad():
                teacher.encode(packed)
            student.encode(packed).cls.sum().backward()
    torch._dynamo.reset()
    assert counter.frame_count == 2 * 2  # before and after attention, with and without gradient


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on the CPU")
@pytest.mark.parametrize("kind", ["exact", "longnet"])
def test_compiled_blocks_give_the_same_and_are_compiled_once(kind):
    """Whatever the lengths: outputs and gradients, with and without checkpointing."""
    torch._dynamo.reset()
    plain = made(kind)
    compiled = copy.deepcopy(plain)
    for i, block in enumerate(compiled.layers):
        compiled.layers[i] = torch.compile(block, dynamic=True)
    hidden = torch.arange(49) % 4 == 0
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for lengths in ((40, 9), (20, 28, 1)):
            crops = [bag(n, n) for n in lengths]
            for a, b in zip(
                encode(compiled, *crops, hidden=hidden, layers=True),
                encode(plain, *crops, hidden=hidden, layers=True),
                strict=True,
            ):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
            for checkpointing in (False, True):
                plain.checkpointing = compiled.checkpointing = checkpointing
                for one in (plain, compiled):
                    one.zero_grad()
                    one.encode(pack(crops), hidden).cls.square().sum().backward()
                for a, b in zip(
                    gradients(compiled).values(), gradients(plain).values(), strict=True
                ):
                    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()
