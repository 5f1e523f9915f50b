import copy

import numpy as np
import pytest
import torch

from slidemill.pretrain.longnet import LongNet
from slidemill.pretrain.packing import pack
from slidemill.pretrain.passes import encode_within
from slidemill.pretrain.vit import SlideTransformer

LENGTHS = (7, 30, 4, 50, 1, 9, 9)
TOTAL = sum(LENGTHS)
BUDGETS = [1, 10, 34, 60, TOTAL - 1]
"""Of one crop a pass; of runs with a crop that is longer than all of them; of two passes."""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["exact", "longnet"])
def encoder(request):
    """In float64, where the order of sums does not show."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if request.param == "exact":
            return SlideTransformer(6, 32, 2, 4).double()
        return LongNet(6, 32, 2, 4, segments=(8, 32), ratios=(1, 2)).double()


@pytest.fixture(scope="module")
def bags():
    rng = np.random.default_rng(0)
    return pack(
        [(rng.normal(size=(n, 6)).astype(np.float32), rng.integers(0, 60, (n, 2))) for n in LENGTHS]
    )


@pytest.fixture(scope="module")
def hidden():
    return torch.from_numpy(np.random.default_rng(1).random(TOTAL) < 0.3)


def loss_of(cls, tokens):
    """A function of all outputs in which every crop is compared with every other."""
    everything = torch.cat([cls, tokens])
    return (everything @ everything.T).square().mean() + everything.cos().sum()


def measured(encoder, bags, hidden, budget, bf16=False):
    """Outputs, gradients, and the bytes that the forward pass keeps for the backward pass."""
    one, kept = copy.deepcopy(encoder), {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        cls, tokens = encode_within(one, bags, hidden, token_budget=budget, bf16=bf16)
    loss_of(cls, tokens).backward()
    return cls, tokens, {n: p.grad for n, p in one.named_parameters()}, sum(kept.values())


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_passes_give_outputs_and_gradients_of_one(
    encoder, bags, hidden, budget, masked, checkpointing
):
    mask = hidden if masked else None
    cls, tokens, gradients, _ = measured(encoder, bags, mask, TOTAL)
    encoder.checkpointing = checkpointing
    again, their_tokens, theirs, _ = measured(encoder, bags, mask, budget)
    torch.testing.assert_close(again, cls, rtol=0, atol=1e-12)
    torch.testing.assert_close(their_tokens, tokens, rtol=0, atol=1e-12)
    assert (gradients["mask_token"] is None) == (theirs["mask_token"] is None) == (not masked)
    for name, gradient in gradients.items():
        if gradient is not None:
            torch.testing.assert_close(theirs[name], gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("budget", BUDGETS)
def test_passes_without_gradient_give_outputs_of_one_and_are_not_repeated(
    encoder, bags, hidden, budget, monkeypatch
):
    expected = encoder.encode(bags, hidden)
    monkeypatch.setattr("slidemill.pretrain.passes.checkpoint", None)
    with torch.no_grad():
        cls, tokens = encode_within(encoder, bags, hidden, token_budget=budget, bf16=False)
    torch.testing.assert_close(cls, expected.cls, rtol=0, atol=1e-12)
    torch.testing.assert_close(tokens, expected.tokens, rtol=0, atol=1e-12)


def test_one_pass_is_not_repeated(encoder, bags, monkeypatch):
    monkeypatch.setattr("slidemill.pretrain.passes.checkpoint", None)
    cls, tokens = encode_within(encoder, bags, None, token_budget=TOTAL, bf16=False)
    assert cls.requires_grad
    assert tokens.requires_grad


@pytest.mark.parametrize("budget", [1, 40, TOTAL])
def test_no_pass_has_more_tiles_than_the_budget_but_for_a_longer_crop(
    encoder, bags, budget, monkeypatch
):
    seen, plain = [], encoder.encode

    def encode(part, mask):
        seen.append(part.sequences.lengths)
        return plain(part, mask)

    monkeypatch.setattr(encoder, "encode", encode)
    with torch.no_grad():
        encode_within(encoder, bags, None, token_budget=budget, bf16=False)
    assert sum(seen, ()) == LENGTHS
    assert all(sum(lengths) <= budget or len(lengths) == 1 for lengths in seen)


def test_passes_keep_outputs_and_no_activations(encoder, bags, hidden):
    whole, parts, single = (
        measured(encoder, bags, hidden, budget)[-1] for budget in (TOTAL, 40, 1)
    )
    outputs = 8 * 32 * (TOTAL + len(LENGTHS))
    assert whole > 10 * outputs
    assert max(parts, single) <= outputs


class Live(torch.utils._python_dispatch.TorchDispatchMode):
    """The most rows that a result over the hidden width of the MLP has."""

    rows = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.ndim == 2 and result.shape[1] == 4 * 32:
            self.rows = max(self.rows, len(result))
        return result


def test_the_backward_pass_computes_one_pass_at_a_time(encoder, bags, hidden):
    cls, tokens = encode_within(encoder, bags, hidden, token_budget=51, bf16=False)
    with Live() as mode:
        loss_of(cls, tokens).backward()
    # The largest pass, of one crop of 50 tiles or several, with their class tokens.
    assert 51 <= mode.rows <= 51 + 3


def test_bf16_passes_are_those_of_one_and_outputs_are_float32(encoder, bags, hidden):
    encoder.float()
    cls, tokens, gradients, _ = measured(encoder, bags, hidden, TOTAL, bf16=True)
    again, their_tokens, theirs, _ = measured(encoder, bags, hidden, 40, bf16=True)
    plain, *_ = measured(encoder, bags, hidden, TOTAL)
    assert cls.dtype == tokens.dtype == torch.float32
    assert not torch.equal(cls, plain)
    torch.testing.assert_close(cls, plain, rtol=0.05, atol=0.1)
    torch.testing.assert_close(again, cls, rtol=0, atol=0.02)
    torch.testing.assert_close(their_tokens, tokens, rtol=0, atol=0.02)
    for name, gradient in gradients.items():
        assert (theirs[name] - gradient).norm() < 0.03 * gradient.norm(), name
