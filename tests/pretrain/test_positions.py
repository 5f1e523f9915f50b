import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slidemill.pretrain.positions import positions_2d, tile_grid


def test_position_codes_by_the_formula():
    code = positions_2d(torch.tensor([[3, 5]]), 8)
    rates = [1.0, 10000.0**-0.5]
    x = [np.sin(3 * r) for r in rates] + [np.cos(3 * r) for r in rates]
    y = [np.sin(5 * r) for r in rates] + [np.cos(5 * r) for r in rates]
    assert code.dtype == torch.float32
    np.testing.assert_allclose(code[0].numpy(), x + y, rtol=1e-6)


@given(st.floats(2.0, 20_000.0), st.integers(0, 900), st.integers(0, 900))
def test_position_codes_of_any_base_by_the_formula(base, x, y):
    code = positions_2d(torch.tensor([[x, y]]), 16, base)
    rates = base ** (-np.arange(4) / 4)
    expected = [f(p * rates) for p in (x, y) for f in (np.sin, np.cos)]
    np.testing.assert_allclose(code[0].numpy(), np.concatenate(expected), atol=1e-4)


def test_the_base_is_the_longest_wave():
    """The slowest channel repeats after nearly 2 pi base cells, the fastest after 2 pi."""
    code = positions_2d(torch.stack([torch.arange(200), torch.zeros(200)], 1).long(), 4000, 10.0)
    slowest, fastest = code[:, 999], code[:, 0]
    torch.testing.assert_close(slowest[63:], slowest[:-63], rtol=0, atol=0.05)
    assert (slowest[31:] - slowest[:-31]).abs().max() > 1.9
    torch.testing.assert_close(fastest[44:], fastest[:-44], rtol=0, atol=0.02)  # 7 waves


@given(
    st.sampled_from([10.0, 10_000.0]),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=2, max_size=8),
    st.tuples(st.integers(0, 1000), st.integers(0, 1000)),
    st.booleans(),
)
def test_products_of_codes_depend_on_distances_alone(base, places, shift, bf16):
    """What attention compares: sum_k cos((x - x') w_k) + cos((y - y') w_k)."""
    grid = torch.tensor(places)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        codes = [positions_2d(p, 64, base).double() for p in (grid, grid + torch.tensor(shift))]
    here, there = (code @ code.T for code in codes)
    rates = base ** (-np.arange(16) / 16)
    apart = (grid[:, None] - grid[None]).numpy()[..., None] * rates
    np.testing.assert_allclose(here.numpy(), np.cos(apart).sum(axis=(2, 3)), atol=5e-3)
    torch.testing.assert_close(there, here, rtol=0, atol=5e-3)


def test_position_codes_are_finite_and_nearly_exact_at_a_million_cells():
    grid = torch.arange(10**6 - 50, 10**6).repeat(2, 1).T
    for base in (10.0, 10_000.0):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            code = positions_2d(grid, 64, base)
        angle = grid[:, :1].numpy() * base ** (-np.arange(16) / 16)
        np.testing.assert_allclose(code[:, :16].numpy(), np.sin(angle), atol=0.1)
        np.testing.assert_allclose(code[:, 48:].numpy(), np.cos(angle), atol=0.1)


def test_position_codes_are_exact_over_the_grid_of_gigapath():
    columns = np.arange(1000)
    code = positions_2d(torch.from_numpy(np.stack([columns, columns], axis=1)), 768)
    angle = columns[:, None] * 10000.0 ** (-np.arange(192) / 192)
    np.testing.assert_allclose(code[:, :192].numpy(), np.sin(angle), atol=1e-4)
    np.testing.assert_allclose(code[:, 576:].numpy(), np.cos(angle), atol=1e-4)


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


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(1, 5000))
def test_tiles_of_any_slide_are_found_exactly(x, y, tile_size):
    grid = tile_grid(torch.tensor([[x, y]]), tile_size)
    assert grid.dtype == torch.int64
    assert grid.tolist() == [[x // tile_size, y // tile_size]]


def test_small_integers_are_taken_too():
    assert tile_grid(torch.tensor([[300, 0]], dtype=torch.int16), 256).tolist() == [[1, 0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.bool])
def test_tiles_are_not_found_by_floats(dtype):
    with pytest.raises(ValueError, match="int64"):
        tile_grid(torch.ones(1, 2).to(dtype), 256)


def test_tiles_are_not_found_by_negative_coordinates():
    with pytest.raises(ValueError, match="-1 px"):
        tile_grid(torch.tensor([[5, -1]]), 256)
