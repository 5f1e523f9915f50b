import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from slidemill.errors import SlideError, WeightsError
from slidemill.pretrain.encoder import SlideTransformer, embed, positions_2d


@pytest.fixture
def encoder():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = SlideTransformer(dim=6, width=16, depth=2, heads=2)
        for name, parameter in made.named_parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, mean="norm.weight" in name, std=0.3)
    made.set_moments(np.full(6, 0.5, dtype=np.float32), np.full(6, 2.0, dtype=np.float32))
    return made.eval()


def bag(count, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 6)).astype(np.float32)
    grid = np.stack([np.arange(count) % 7, np.arange(count) // 7], axis=1).astype(np.int64)
    return features, grid


def test_position_codes_by_the_formula():
    code = positions_2d(torch.tensor([[3, 5]]), 8)
    rates = [1.0, 10000.0**-0.5]
    x = [np.sin(3 * r) for r in rates] + [np.cos(3 * r) for r in rates]
    y = [np.sin(5 * r) for r in rates] + [np.cos(5 * r) for r in rates]
    assert code.dtype == torch.float32
    np.testing.assert_allclose(code[0].numpy(), x + y, rtol=1e-6)


def test_distinct_positions_have_distinct_codes_far_out():
    columns = torch.arange(0, 4000, 3)
    grid = torch.stack([columns, 4000 - columns], dim=-1)
    code = positions_2d(grid, 64)
    nearest = torch.cdist(code.double(), code.double()).fill_diagonal_(1.0).min()
    assert nearest > 0.1


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_position_codes_have_one_length_whatever_autocast_says(x, y):
    grid = torch.tensor([[x, y]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        code = positions_2d(grid, 32)
    assert code.dtype == torch.float32
    assert torch.equal(code, positions_2d(grid, 32))
    assert code.square().sum().item() == pytest.approx(16.0, rel=1e-5)


def test_position_codes_refuse_floats_and_odd_widths():
    with pytest.raises(ValueError, match="integers"):
        positions_2d(torch.zeros(1, 2), 8)
    with pytest.raises(ValueError, match="multiple of 4"):
        positions_2d(torch.zeros(1, 2, dtype=torch.int64), 6)


def test_padding_changes_nothing(encoder):
    bags = [bag(count, count) for count in (1, 9, 30)]
    features = torch.full((3, 40, 6), 1e3)
    positions = torch.full((3, 40, 2), 77)
    valid = torch.zeros(3, 40, dtype=torch.bool)
    for row, (tiles, grid) in enumerate(bags):
        features[row, : len(tiles)] = torch.from_numpy(tiles)
        positions[row, : len(tiles)] = torch.from_numpy(grid)
        valid[row, : len(tiles)] = True
    with torch.no_grad():
        together = encoder(features, positions, valid).numpy()
    alone = np.stack([embed(encoder, *one, "cpu") for one in bags])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_embedding_is_the_first_of_all_tokens(encoder):
    features, grid = (torch.from_numpy(array)[None] for array in bag(12))
    with torch.no_grad():
        tokens = encoder.tokens(features, grid)
        embedding = encoder(features, grid)
    assert tokens.shape == (1, 13, 16)
    torch.testing.assert_close(tokens[:, 0], embedding)


def test_every_parameter_shapes_the_embedding(encoder):
    features, grid = (torch.from_numpy(array)[None] for array in bag(12))
    encoder(features, grid).square().sum().backward()
    idle = [
        name
        for name, parameter in encoder.named_parameters()
        if parameter.grad is None or parameter.grad.abs().max() == 0.0
    ]
    assert idle == []


def test_order_does_not_matter_but_places_do(encoder):
    features, grid = bag(20)
    order = np.random.default_rng(1).permutation(20)
    plain = embed(encoder, features, grid, "cpu")
    np.testing.assert_allclose(
        embed(encoder, features[order], grid[order], "cpu"), plain, atol=1e-5
    )
    np.testing.assert_array_equal(embed(encoder, features, grid + 500, "cpu"), plain)
    assert np.abs(embed(encoder, features, grid[order], "cpu") - plain).max() > 1e-3


def test_features_are_standardised_by_the_encoders_own_moments(encoder):
    features, grid = bag(10)
    plain = embed(encoder, features, grid, "cpu")
    encoder.set_moments(np.full(6, 100.5, dtype=np.float32), np.full(6, 20.0, dtype=np.float32))
    np.testing.assert_allclose(
        embed(encoder, (features - 0.5) * 10.0 + 100.5, grid, "cpu"), plain, atol=1e-4
    )


def test_thousands_of_tiles_go_at_once(encoder):
    rng = np.random.default_rng(0)
    grid = rng.integers(0, 200, size=(10_000, 2))
    vector = embed(encoder, rng.normal(size=(10_000, 6)).astype(np.float32), grid, "cpu")
    assert vector.shape == (16,) and vector.dtype == np.float32
    assert np.isfinite(vector).all()


def test_embedding_refuses_no_tiles_and_other_widths(encoder):
    features, grid = bag(4)
    with pytest.raises(SlideError, match="no-tiles"):
        embed(encoder, features[:0], grid[:0], "cpu")
    with pytest.raises(WeightsError, match="width 6"):
        embed(encoder, features[:, :5], grid, "cpu")


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="4 x 3"):
        SlideTransformer(dim=6, width=16, depth=1, heads=3)


def test_checkpoints_go_round_through_a_file_without_random_draws(encoder, tmp_path):
    path = tmp_path / "encoder.safetensors"
    state, meta = encoder.state_for_checkpoint()
    save_file(state, path, metadata=meta)
    random_state = torch.get_rng_state()
    with safe_open(path, framework="pt") as file:
        again = SlideTransformer.from_state(
            {key: file.get_tensor(key) for key in file.keys()},  # noqa: SIM118
            file.metadata(),
        )
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not again.training
    features, grid = bag(15)
    np.testing.assert_array_equal(
        embed(again, features, grid, "cpu"), embed(encoder, features, grid, "cpu")
    )
    state["class_token"].add_(1.0)
    assert not torch.equal(state["class_token"], encoder.class_token)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, m: s.update(wrong=s.pop("class_token")), "(?s)class_token.*wrong"),
        (lambda s, m: s.pop("feature_mean"), "feature_mean"),
        (lambda s, m: s.update(extra=torch.zeros(1)), "extra"),
        (lambda s, m: m.update(dim="7"), "size mismatch"),
        (lambda s, m: m.update(depth="1"), "blocks.1"),
        (lambda s, m: m.update(heads="3"), "4 x 3"),
        (lambda s, m: m.update(width="wide"), "wide"),
        (lambda s, m: m.pop("heads"), "heads"),
        (lambda s, m: m.update(version="0"), "version '0'"),
        (lambda s, m: m.pop("version"), "version None"),
    ],
)
def test_loading_is_strict(encoder, change, message):
    state, meta = encoder.state_for_checkpoint()
    change(state, meta)
    with pytest.raises(WeightsError, match=message):
        SlideTransformer.from_state(state, meta)


def test_the_class_token_starts_away_from_the_pole_of_the_norm():
    features, grid = (torch.from_numpy(array)[None] for array in bag(12))
    norms = []
    for scale in (1.0, 0.0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = SlideTransformer(dim=6, width=32, depth=1, heads=2)
        with torch.no_grad():
            made.class_token.mul_(scale)
        made(features, grid)[0, :16].sum().backward()
        norms.append(made.class_token.grad.norm().item())
    assert norms[0] < 0.3 * norms[1]
