import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss.swav_loss import sinkhorn as lightly_sinkhorn
from lightly.models.modules.center import Center
from scipy.special import softmax

from slidemill.pretrain.distributed import Ranks
from slidemill.pretrain.losses.targets import (
    Centring,
    shifted_targets,
    sinkhorn,
    sinkhorn_shift,
)


def sinkhorn_by_hand(logits, temperature, iterations):
    """The published form, in float64: rows and columns of a K x B matrix."""
    q = np.exp(np.asarray(logits, np.float64) / temperature).T
    k, b = q.shape
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(axis=1, keepdims=True) * k
        q /= q.sum(axis=0, keepdims=True) * b
    return (q * b).T


@pytest.mark.parametrize("iterations", [1, 3, 10])
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_sinkhorn_is_the_published_one(draw, rows, iterations):
    logits = draw(rows, 20)
    targets = sinkhorn(logits, 0.5, Ranks(), iterations)
    np.testing.assert_allclose(targets, sinkhorn_by_hand(logits, 0.5, iterations), atol=1e-6)
    lightly = lightly_sinkhorn(logits, iterations=iterations, epsilon=0.5)
    torch.testing.assert_close(targets, lightly, atol=1e-6, rtol=1e-5)


@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 12),
    prototypes=st.integers(2, 30),
    temperature=st.sampled_from([0.02, 0.07, 1.0]),
)
@settings(max_examples=50, deadline=None)
def test_sinkhorn_gives_distributions_that_use_prototypes_alike(
    seed, rows, prototypes, temperature
):
    cosines = torch.rand(rows, prototypes, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    targets = sinkhorn(cosines, temperature, Ranks(), 500)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(rows))
    share = torch.full((prototypes,), 1 / prototypes)
    torch.testing.assert_close(targets.mean(dim=0), share, atol=0.01, rtol=0.0)
    entropy = torch.special.entr(targets).sum(dim=1).mean().item()
    assert entropy > math.log(prototypes / rows) - 0.1


def test_sinkhorn_takes_no_notice_of_what_all_rows_share(draw):
    logits = draw(6, 9)
    targets = sinkhorn(logits, 0.3, Ranks())
    moved = logits + draw(1, 9)
    torch.testing.assert_close(sinkhorn(moved, 0.3, Ranks()), targets, atol=1e-5, rtol=1e-4)
    same = draw(1, 9).expand(6, 9)
    torch.testing.assert_close(sinkhorn(same, 0.04, Ranks()), torch.full((6, 9), 1 / 9))


def test_sinkhorn_is_stable_where_its_exponentials_are_not(draw):
    logits = 1000 * draw(4, 8)
    logits[:, 2] -= 1e5
    targets = sinkhorn(logits, 0.1, Ranks())
    assert targets.isfinite().all()
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(4))


def test_the_shift_of_blocks_is_that_of_all_rows(draw):
    logits = draw(10, 7)
    whole = sinkhorn_shift(lambda: [logits], 0.2, Ranks())
    parts = sinkhorn_shift(lambda: logits.split(3), 0.2, Ranks())
    torch.testing.assert_close(parts, whole)
    with_empty = sinkhorn_shift(lambda: [logits[:0], *logits.split(4)], 0.2, Ranks())
    torch.testing.assert_close(with_empty, whole)
    torch.testing.assert_close(shifted_targets(logits, 0.2, whole), sinkhorn(logits, 0.2, Ranks()))


def test_sinkhorn_of_nothing_is_refused_or_empty(draw):
    with pytest.raises(ValueError, match="0 iterations"):
        sinkhorn(draw(2, 3), 0.1, Ranks(), 0)
    with pytest.raises(ValueError, match="no block"):
        sinkhorn_shift(list, 0.1, Ranks())
    assert sinkhorn(draw(0, 3), 0.1, Ranks()).shape == (0, 3)


def test_centring_is_lightly_s_and_moves_after_its_use(draw):
    ours, theirs = Centring(6, 0.9), Center((1, 6), momentum=0.9)
    for _ in range(5):
        logits = draw(8, 6)
        expected = softmax((logits - theirs.value).double().numpy() / 0.04, axis=-1)
        np.testing.assert_allclose(ours.targets(logits, 0.04), expected, atol=1e-5)
        torch.testing.assert_close(
            shifted_targets(logits, 0.04, ours.shift(0.04)),
            ours.targets(logits, 0.04),
            atol=1e-5,
            rtol=1e-4,
        )
        ours.observe(logits, Ranks())
        before = ours.centre.clone()
        theirs.update(logits)
        ours.advance()
        assert not torch.equal(ours.centre, before)
        torch.testing.assert_close(ours.centre, theirs.value[0])


def test_the_centre_of_accumulated_batches_is_that_of_one(draw):
    logits = draw(10, 4)
    one, many = Centring(4, 0.7), Centring(4, 0.7)
    one.observe(logits, Ranks())
    for part in (logits[:1], logits[1:1], logits[1:7], logits[7:]):
        many.observe(part, Ranks())
        assert many.centre.abs().max() == 0.0
    one.advance()
    many.advance()
    torch.testing.assert_close(many.centre, one.centre)
    torch.testing.assert_close(one.centre, 0.3 * logits.mean(dim=0))


def test_the_centre_stays_where_nothing_was_seen(draw):
    centring = Centring(4, 0.7)
    centring.observe(draw(3, 4), Ranks())
    centring.advance()
    before = centring.centre.clone()
    centring.advance()
    centring.observe(draw(0, 4), Ranks())
    centring.advance()
    assert torch.equal(centring.centre, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_are_observed_as_their_rows_in_one(draw, dtype):
    """Of any sizes, from a generator that is gone through once, and once over ranks."""
    logits = draw(10, 4).to(dtype)
    one, many, calls = Centring(4, 0.7), Centring(4, 0.7), []

    class Counting(Ranks):
        def sum(self, tensor):
            calls.append(tensor.clone())
            return 2 * tensor  # as another rank with the same rows would

    one.observe(torch.cat([logits, logits]), Ranks())
    blocks = (logits[a:b] for a, b in ((0, 3), (3, 3), (3, 4), (4, 10)))
    many.observe_blocks(blocks, Counting())
    assert len(calls) == 1
    assert many.window_count == one.window_count == 20.0
    torch.testing.assert_close(many.window_sum, one.window_sum)
    assert many.centre.abs().max() == 0.0
    many.advance()
    torch.testing.assert_close(many.centre, 0.3 * logits.float().mean(dim=0))
    assert many.window_count == 0.0


def test_blocks_without_rows_leave_the_centre(draw):
    centring = Centring(4, 0.7)
    centring.observe(draw(3, 4), Ranks())
    centring.advance()
    before = centring.centre.clone()
    for blocks in ([draw(0, 4)], [draw(0, 4), draw(0, 4)]):
        centring.observe_blocks(blocks, Ranks())
        centring.advance()
    assert torch.equal(centring.centre, before)


def test_no_gradient_is_kept_of_blocks(draw):
    centring = Centring(4, 0.7)
    centring.observe_blocks([draw(3, 4).requires_grad_() * 2], Ranks())
    assert not centring.window_sum.requires_grad


def test_a_window_goes_on_from_its_state(draw):
    first, second = draw(3, 4), draw(5, 4)
    whole, resumed = Centring(4, 0.7), Centring(4, 0.7)
    whole.observe(first, Ranks())
    resumed.load_state_dict(whole.state_dict())
    for centring in (whole, resumed):
        centring.observe(second, Ranks())
        centring.advance()
    assert torch.equal(whole.centre, resumed.centre)


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_a_momentum_outside_its_range_is_refused(momentum):
    with pytest.raises(ValueError, match="momentum"):
        Centring(4, momentum)


def test_targets_are_float32_under_autocast_and_carry_no_gradient(draw):
    logits = draw(6, 9).requires_grad_()
    plain = sinkhorn(logits, 0.05, Ranks())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sinkhorn(logits, 0.05, Ranks()), plain)
    assert plain.dtype == torch.float32
    assert not plain.requires_grad
    assert not Centring(9, 0.9).targets(logits, 0.1).requires_grad
