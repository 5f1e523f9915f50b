import json
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter

import slidemill.pretrain
from slidemill.errors import WeightsError
from slidemill.pretrain import LongNet
from slidemill.pretrain.packing import Sequences, pack

SMALL = {"segments": (8, 16, 32), "ratios": (1, 2, 4)}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(depth=2, **kwargs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = LongNet(6, 32, depth, 4, **(SMALL | kwargs))
        for name, parameter in encoder.named_parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, mean="norm.weight" in name, std=0.3)
    return encoder.eval()


def bag(count, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 6)).astype(np.float32)
    return features, np.stack([np.arange(count) % 7, np.arange(count) // 7], axis=1)


def published(shared):
    folder = shared / "golden"
    shapes = json.loads((folder / "gigapath_longnet_8x256.shapes.json").read_text())
    weights = {}
    for key, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(key.encode()))
        drawn = rng.standard_normal(shape).astype("float32") * np.float32(0.05)
        scale = key.endswith("weight") and ("norm" in key or "_ln" in key)
        weights[key] = torch.from_numpy(drawn + np.float32(scale))
    return weights


@pytest.fixture(scope="module")
def gigapath(shared):
    return LongNet.from_gigapath(
        published(shared), tile_size=256, slide_ngrids=256, max_wsi_size=32768
    )


@pytest.mark.parametrize(("count", "seed"), [(50, 0), (1023, 1), (3000, 2)])
def test_gigapath_weights_give_its_outputs(shared, gigapath, count, seed):
    rng = np.random.default_rng(seed)
    features = torch.from_numpy(rng.standard_normal((count, 1536)).astype("float32") * 0.5)
    flat = rng.permutation(200 * 200)[:count]
    coords = torch.from_numpy(np.stack([flat % 200, flat // 200], axis=1) * 256)
    golden = np.load(shared / "golden" / "gigapath_longnet_8x256.npz")
    with torch.no_grad():
        layers = gigapath(features, coords, all_layers=True)
        final = gigapath(features, coords)
    assert layers.shape == (9, 256)
    assert final.shape == (256,)
    np.testing.assert_allclose(layers, golden[f"layers_n{count}_seed{seed}"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(final[None], golden[f"final_n{count}_seed{seed}"], rtol=0, atol=1e-4)


def test_gigapath_is_all_of_one_network(gigapath):
    assert (gigapath.dim, gigapath.width, gigapath.depth, gigapath.heads) == (1536, 256, 8, 16)
    assert gigapath.dilation.padding_keys
    assert gigapath.dilation.segments == (1024, 2048, 4096, 8192, 16384)
    assert not any(x.is_meta for x in gigapath.state_dict().values())
    assert all(x.requires_grad for x in gigapath.parameters())
    assert (gigapath.feature_std == 1).all()


def test_loading_gigapath_draws_nothing(shared):
    before = torch.random.get_rng_state()
    LongNet.from_gigapath(published(shared))
    assert torch.equal(before, torch.random.get_rng_state())


def test_wrong_gigapath_weights_are_named(shared):
    weights = published(shared)
    del weights["encoder.layers.3.ffn.fc1.bias"]
    with pytest.raises(WeightsError, match=r"missing: encoder\.layers\.3\.ffn\.fc1\.bias"):
        LongNet.from_gigapath(weights)


def test_tiles_beyond_the_table_are_answered_and_logged(gigapath, caplog):
    features = torch.zeros(2, 1536)
    with torch.no_grad():
        near = gigapath(features, torch.tensor([[0, 0], [255 * 256, 0]]))
        assert not caplog.records
        far = gigapath(features, torch.tensor([[0, 0], [2000 * 256, 0]]))
        farther = gigapath(features, torch.tensor([[0, 0], [2001 * 256, 0]]))
    assert "column or row 2000, beyond the 256" in caplog.text
    assert far.isfinite().all()
    assert not torch.allclose(near, far)
    assert not torch.equal(far, farther)


def test_a_tile_is_found_by_its_corner_and_not_by_rounding(gigapath):
    features = torch.zeros(1, 1536)
    with torch.no_grad():
        first, same, next_one = (
            gigapath(features, torch.tensor([[x, 0]])) for x in (16_896, 17_151, 17_152)
        )
    assert torch.equal(first, same)
    assert not torch.equal(first, next_one)


def test_a_call_refuses_what_it_cannot_place():
    encoder = made(tile_size=256)
    features, coords = torch.zeros(3, 6), torch.zeros(3, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="int64"):
        encoder(features, coords.float())
    with pytest.raises(ValueError, match="int64"):
        encoder(features, coords.half())
    with pytest.raises(ValueError, match="-256 px"):
        encoder(features, coords - 256)
    with pytest.raises(ValueError, match=r"not \(N, 6\)"):
        encoder(features[:2], coords)
    with pytest.raises(ValueError, match=r"not \(N, 6\)"):
        encoder(features[:, :5], coords)
    with pytest.raises(ValueError, match="at least one token"):
        encoder(features[:0], coords[:0])
    features[1, 2] = torch.nan
    with pytest.raises(ValueError, match="1 of 3 tiles are not finite"):
        encoder(features, coords)
    with pytest.raises(ValueError, match="no tile_size"):
        made()(features, coords)


def test_a_call_is_the_encoding_of_one_bag():
    encoder = made(tile_size=100)
    features, grid = bag(20)
    packed = pack([(features, grid)])
    with torch.no_grad():
        encoded = encoder.encode(packed, layers=True)
        coords = packed.positions * 100 + 99
        assert torch.equal(encoder(packed.features, coords), encoded.cls[0])
        assert torch.equal(encoder(packed.features, coords, all_layers=True), encoded.layers[:, 0])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=4), st.booleans(), st.integers(0, 9))
def test_a_bag_alone_and_in_a_batch_give_the_same(lengths, padding, seed):
    encoder = made(padding_keys=padding)
    crops = [bag(n, seed + i) for i, n in enumerate(lengths)]
    with torch.no_grad():
        together = encoder.encode(pack(crops), layers=True)
        for i, crop in enumerate(crops):
            alone = encoder.encode(pack([crop]), layers=True)
            torch.testing.assert_close(alone.cls[0], together.cls[i], rtol=0, atol=1e-5)
            torch.testing.assert_close(alone.layers[:, 0], together.layers[:, i], rtol=0, atol=1e-5)
            part = together.tokens.split(lengths)[i]
            torch.testing.assert_close(alone.tokens, part, rtol=0, atol=1e-5)


def test_layers_go_through_the_last_norm_only():
    encoder = made()
    with torch.no_grad():
        encoded = encoder.encode(pack([bag(5)]), layers=True)
    assert encoded.layers.shape == (3, 1, 32)
    assert torch.equal(encoded.layers[0, 0], encoder.norm(encoder.class_token).detach())
    assert not torch.allclose(encoded.layers[-1], encoded.cls)


def test_hidden_tiles_say_nothing_of_their_features():
    encoder = made()
    features, grid = bag(12)
    hidden = torch.arange(12) % 3 == 0
    other = features + 5.0 * hidden.numpy()[:, None].astype(np.float32)
    with torch.no_grad():
        a, b = (encoder.encode(pack([(x, grid)]), hidden).tokens for x in (features, other))
        shown = encoder.encode(pack([(features, grid)])).tokens
    assert torch.equal(a, b)
    assert not torch.allclose(a, shown)


def test_the_order_of_the_axes_is_a_switch():
    features, grid = bag(12)
    columns_first, rows_first = made(), made(rows_first=True)
    with torch.no_grad():
        swapped = columns_first.encode(pack([(features, grid[:, ::-1].copy())])).cls
        torch.testing.assert_close(rows_first.encode(pack([(features, grid)])).cls, swapped)
        assert not torch.allclose(columns_first.encode(pack([(features, grid)])).cls, swapped)


def test_all_parameters_get_a_gradient_and_checkpointing_does_not_change_it():
    encoder = made().double()
    packed = pack([(x.astype(np.float64), grid) for x, grid in (bag(40), bag(9, 1))])
    hidden = torch.arange(49) % 4 == 0
    found = []
    for checkpointing in (False, True):
        encoder.checkpointing = checkpointing
        encoder.zero_grad()
        encoder.encode(packed, hidden).cls.square().sum().backward()
        found.append({name: p.grad.clone() for name, p in encoder.named_parameters()})
    for name, gradient in found[0].items():
        assert gradient.abs().sum() > 0, name
        torch.testing.assert_close(gradient, found[1][name])


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"tile_size": 256, "padding_keys": True, "rows_first": True, "grid_size": 1000},
        {"segments": (5,), "ratios": (1,)},
    ],
)
def test_sizes_make_the_same_network_again(kwargs):
    encoder = made(**kwargs)
    sizes = encoder.sizes()
    assert all(isinstance(value, str) for value in sizes.values())
    again = LongNet.from_sizes(sizes)
    assert again.sizes() == sizes
    again.load_state_dict(encoder.state_dict())
    packed = pack([bag(40)])
    with torch.no_grad():
        assert torch.equal(again.encode(packed).cls, encoder.encode(packed).cls)


@pytest.mark.parametrize(
    "wrong",
    [{"ratios": "1"}, {"segments": "8,x,2"}, {"padding_keys": "yes"}, {"width": "33"}],
)
def test_sizes_of_no_network_are_refused(wrong):
    with pytest.raises(WeightsError, match="sizes of a longnet checkpoint"):
        LongNet.from_sizes(made().sizes() | wrong)
    with pytest.raises(WeightsError, match="grid_size"):
        LongNet.from_sizes({k: v for k, v in made().sizes().items() if k != "grid_size"})


def test_blocks_compile_once_for_all_lengths():
    torch._dynamo.reset()
    block, counter = made().layers[0], CompileCounter()
    compiled = torch.compile(block, backend=counter, dynamic=True)
    for lengths in ([3, 40], [5, 6, 7], [9], [2, 2, 2, 2]):
        tokens = torch.from_numpy(np.random.default_rng(0).normal(size=(sum(lengths), 32))).float()
        sequences = Sequences.of(lengths)
        with torch.no_grad():
            torch.testing.assert_close(
                compiled(tokens, sequences, None), block(tokens, sequences, None)
            )
    torch._dynamo.reset()
    assert counter.frame_count == 2  # before attention and after it


def test_the_package_names_longnet_and_loads_nothing_for_it():
    with pytest.raises(AttributeError, match="nothing"):
        slidemill.pretrain.nothing  # noqa: B018
    code = "import sys, slidemill.pretrain; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


MEMORY = """
import resource, sys, torch
from slidemill.pretrain import LongNet
from slidemill.pretrain.packing import Packed, Sequences
from slidemill.pretrain.vit import SlideTransformer

torch.set_num_threads(1)
encoder = {"exact": SlideTransformer, "longnet": LongNet}[sys.argv[1]](16, 64, 1, 4)
count = int(sys.argv[2])
grid = torch.stack([torch.arange(count) % 210, torch.arange(count) // 210], dim=1)
bag = Packed(torch.ones(count, 16), grid, Sequences.of([count]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with torch.no_grad():
    assert encoder.encode(bag).cls.isfinite().all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["exact", "longnet"])
def test_memory_is_bounded_at_45000_tiles(kind):
    command = [sys.executable, "-c", MEMORY, kind, "45000"]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(ran.stdout) < 1_000_000  # kB; one 45,000 x 45,000 matrix is 8 GB
