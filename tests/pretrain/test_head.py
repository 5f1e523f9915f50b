import pytest
import torch

from slidemill.pretrain.head import ProjectionHead


@pytest.fixture
def head():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return ProjectionHead(16, 40, hidden=32, bottleneck=8)


@pytest.fixture
def embedding():
    return torch.randn(5, 16, generator=torch.Generator().manual_seed(0))


def test_outputs_are_cosines_with_prototypes_of_any_length(head, embedding):
    outputs = head(embedding)
    assert outputs.shape == (5, 40)
    assert outputs.abs().max() <= 1.0 + 1e-6
    cosines = torch.cosine_similarity(head.mlp(embedding)[:, None], head.prototypes[None], dim=-1)
    torch.testing.assert_close(outputs, cosines)
    with torch.no_grad():
        head.prototypes.mul_(torch.arange(1.0, 41.0)[:, None])
    torch.testing.assert_close(head(embedding), outputs)


def test_the_mlp_has_three_layers_of_the_recipe_s_scale(head):
    layers = [part for part in head.mlp if isinstance(part, torch.nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [(32, 16), (32, 32), (8, 32)]
    weights = torch.cat([layer.weight.flatten() for layer in layers])
    assert weights.std().item() == pytest.approx(0.02, rel=0.1)
    assert all(layer.bias.abs().max() == 0.0 for layer in layers)
    assert head.prototypes.norm(dim=1).mean().item() == pytest.approx(1.0, rel=0.1)


def test_gradient_of_a_prototype_turns_it_and_does_not_stretch_it(head, embedding):
    head(embedding).square().sum().backward()
    along = (head.prototypes.grad * head.prototypes).sum(dim=1)
    torch.testing.assert_close(along, torch.zeros(40), atol=1e-6, rtol=0.0)
    assert head.prototypes.grad.abs().max() > 1e-3


def test_prototypes_can_be_frozen(head, embedding):
    head.prototypes.requires_grad_(False)
    head(embedding).sum().backward()
    assert head.prototypes.grad is None
    assert head.mlp[0].weight.grad.abs().max() > 0.0


def test_cosines_are_float32_under_autocast(head, embedding):
    plain = head(embedding)
    with torch.autocast("cpu", torch.bfloat16):
        cast = head(embedding)
        assert head.mlp(embedding).dtype == torch.bfloat16
    assert cast.dtype == torch.float32
    point = torch.nn.functional.normalize(head.mlp.bfloat16()(embedding.bfloat16()).float(), dim=-1)
    expected = point @ torch.nn.functional.normalize(head.prototypes, dim=-1).T
    assert (cast - plain).abs().max() < 0.05
    assert (cast - expected).abs().max() < 0.02
    assert (cast - cast.bfloat16().float()).abs().max() > 1e-4


def test_no_row_gives_no_output(head):
    assert head(torch.zeros(0, 16)).shape == (0, 40)
