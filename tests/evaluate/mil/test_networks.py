import numpy as np
import pytest
import torch
from torch import nn

from slidemill.config import AbmilConfig, MilConfig
from slidemill.evaluate.mil.networks import POOLINGS, Pooling, Shape, StackedMil, dropout_noise


def network(pooling: Pooling, seeds: tuple[int, ...] = (0, 1), **abmil: object) -> StackedMil:
    mil = MilConfig(width=8, hidden=(7,), dropout=0.5)
    shape = Shape.of(pooling, 5, 2, mil, AbmilConfig(attention_width=4, **abmil))
    return StackedMil(shape, seeds).eval()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_packed_bags_are_bags_one_by_one(pooling: Pooling) -> None:
    model, x, lengths = network(pooling), torch.randn(12, 5), (5, 4, 3)
    with torch.no_grad():
        outputs, attention = model(x, lengths)
        parts = [model(part, (len(part),)) for part in x.split(lengths)]
    assert outputs.shape == (2, 3, 2)
    assert torch.allclose(outputs, torch.cat([p[0] for p in parts], 1), atol=1e-6)
    if pooling == "abmil":
        assert torch.allclose(attention, torch.cat([p[1] for p in parts], 1), atol=1e-6)
        assert torch.allclose(attention[:, :5].sum(1), torch.ones(2), atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_order_of_tiles_does_not_matter(pooling: Pooling) -> None:
    model, x = network(pooling), torch.randn(9, 5)
    with torch.no_grad():
        there, back = model(x, (9,))[0], model(x.flip(0), (9,))[0]
    assert torch.allclose(there, back, atol=1e-6)


def test_gated_attention_is_the_papers_equation() -> None:
    """Equation 9 of Ilse et al., term by term, in float64 with NumPy."""
    model = network("abmil", seeds=(3,))
    w = {k: v[0].detach().double().numpy() for k, v in model.weights.items()}
    x = np.random.default_rng(0).standard_normal((6, 5))
    h = x
    for layer in ("embed0", "embed1"):
        h = np.maximum(h @ w[f"{layer}_weight"] + w[f"{layer}_bias"], 0)
    v = np.tanh(h @ w["tanh_weight"] + w["tanh_bias"])
    u = 1 / (1 + np.exp(-(h @ w["gate_weight"] + w["gate_bias"])))
    e = np.exp((v * u) @ w["score_weight"])[:, 0]
    a = e / e.sum()
    expected = (a @ h) @ w["classify_weight"] + w["classify_bias"][0]
    with torch.no_grad():
        outputs, attention = model(torch.from_numpy(x).float(), (6,))
    assert np.allclose(outputs[0, 0].numpy(), expected, atol=1e-6)
    assert np.allclose(attention[0].numpy(), a, atol=1e-6)


def test_max_pooling_is_the_largest_of_the_tiles_outputs() -> None:
    model, x = network("max-pool"), torch.randn(7, 5)
    with torch.no_grad():
        bag = model(x, (7,))[0]
        tiles = model(x, (1,) * 7)[0]
    assert torch.allclose(bag[:, 0], tiles.amax(1), atol=1e-6)


def test_heads_and_gates_change_the_shape() -> None:
    assert network("abmil", heads=3).weights["classify_weight"].shape == (2, 24, 2)
    assert "gate_weight" not in network("abmil", gated=False).weights


def test_networks_of_one_seed_are_alike_and_of_torchs_own_scale() -> None:
    model = network("abmil", seeds=(4, 4, 5))
    weight = model.weights["embed0_weight"]
    assert torch.equal(weight[0], weight[1])
    assert not torch.equal(weight[0], weight[2])
    torch.manual_seed(4)
    assert torch.equal(nn.Linear(5, 7).weight.T, weight[0])


def test_standardising_is_subtracting_and_dividing() -> None:
    model, x = network("mean-pool"), torch.randn(6, 5) * 3 + 100
    mean, scale = torch.full((2, 5), 100.0), torch.tensor([[2.0], [4.0]]).expand(2, 5)
    with torch.no_grad():
        by_hand = torch.cat([model((x - mean[m]) / scale[m], (6,))[0][m : m + 1] for m in range(2)])
        model.standardise(mean, scale)
        found = model(x, (6,))[0]
    assert torch.allclose(found, by_hand, atol=1e-5)


def test_chosen_networks_are_those_of_all() -> None:
    model, x = network("abmil", seeds=(0, 1, 2)), torch.randn(6, 5)
    model.standardise(torch.randn(3, 5), torch.rand(3, 5) + 0.5)
    with torch.no_grad():
        everyone = model(x, (6,))[0]
        some = model(x, (6,), None, torch.tensor([2, 0]))[0]
    assert torch.allclose(some, everyone[[2, 0]], atol=1e-6)


def test_dropout_depends_on_seed_epoch_and_bag() -> None:
    model = network("abmil", seeds=(1, 2, 1))
    noise = dropout_noise(model, 0, [3, 4], [5, 2])
    assert noise is not None
    assert noise.shape == (3, 7, 8)
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])
    assert set(noise.unique().tolist()) == {0.0, 2.0}
    alone = dropout_noise(network("abmil", seeds=(1,)), 0, [4], [2])
    assert alone is not None
    assert torch.equal(alone[0], noise[0, 5:])
    assert not torch.equal(noise, dropout_noise(model, 1, [3, 4], [5, 2]))
