import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss.dino_loss import DINOLoss
from scipy.special import log_softmax

from slidemill.pretrain.distributed import Ranks
from slidemill.pretrain.losses.dino import dino_loss
from slidemill.pretrain.losses.targets import Centring


@given(
    seed=st.integers(0, 2**31),
    globals_=st.integers(1, 4),
    locals_=st.integers(0, 4),
    slides=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_loss_is_the_mean_over_pairs_by_hand(seed, globals_, locals_, slides):
    rng = np.random.default_rng(seed)
    views, prototypes = max(globals_ + locals_, 2), 5
    student = rng.uniform(-1, 1, (views, slides, prototypes)).astype(np.float32)
    targets = rng.dirichlet(np.ones(prototypes), (globals_, slides)).astype(np.float32)
    pairs = [
        -np.sum(targets[g, b] * log_softmax(student[v, b].astype(float) / 0.1))
        for g in range(globals_)
        for v in range(views)
        if v != g
        for b in range(slides)
    ]
    loss = dino_loss(torch.from_numpy(student), torch.from_numpy(targets), 0.1, slides)
    assert loss.item() == pytest.approx(np.mean(pairs), rel=1e-5)


@pytest.mark.parametrize("views", [2, 10])
def test_loss_gradient_and_centre_are_lightly_s_over_many_steps(draw, views):
    centring, theirs = Centring(50, 0.9), DINOLoss(50, center_momentum=0.9)
    for _ in range(4):
        teacher = draw(2, 6, 50)
        student = draw(views, 6, 50).requires_grad_()
        copy = student.detach().clone().requires_grad_()
        loss = dino_loss(student, centring.targets(teacher, 0.05), 0.1, 6)
        expected = theirs(list(teacher), list(copy), teacher_temp=0.05)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        loss.backward()
        expected.backward()
        torch.testing.assert_close(student.grad, copy.grad, atol=1e-7, rtol=1e-5)
        centring.observe(teacher.flatten(end_dim=1), Ranks())
        centring.advance()
        torch.testing.assert_close(centring.centre, theirs.center[0, 0], atol=1e-6, rtol=1e-5)


def test_loss_is_that_of_dinov2_with_global_pairs_weighed_by_two(draw):
    """Two terms there: swapped global views in one batch, weighed by 2, and locals to both."""
    student, targets = draw(6, 3, 8), draw(2, 3, 8).softmax(dim=-1)
    log_student = (student / 0.1).log_softmax(dim=-1)
    swapped = -(targets.flip(0) * log_student[:2]).sum(dim=-1).mean()
    local = sum(-(targets[g] * log_student[v]).sum(-1).mean() for g in (0, 1) for v in range(2, 6))
    expected = (2 * swapped + local) / (2 + 2 * 4)
    torch.testing.assert_close(dino_loss(student, targets, 0.1, 3), expected)


def test_uniform_outputs_give_log_k():
    loss = dino_loss(torch.zeros(4, 3, 50), torch.full((2, 3, 50), 0.02), 0.1, 3)
    assert loss.item() == pytest.approx(math.log(50), rel=1e-6)


def test_equal_distributions_give_their_entropy(draw):
    logits = draw(1, 4, 6).expand(2, 4, 6)
    targets = (logits / 0.3).softmax(dim=-1)
    entropy = torch.special.entr(targets).sum(dim=-1).mean()
    torch.testing.assert_close(dino_loss(logits, targets, 0.3, 4), entropy)


def test_a_view_is_never_compared_with_itself():
    targets = torch.full((2, 1, 4), 0.25)
    targets[0, 0] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    student = torch.zeros(2, 1, 4, requires_grad=True)
    dino_loss(student, targets, 0.1, 1).backward()
    assert student.grad[0].abs().max() < 1e-6
    assert student.grad[1, 0, 1] < -0.1


def test_shares_of_batches_add_up_to_the_loss_of_the_step(draw):
    student, targets = draw(5, 7, 9), draw(2, 7, 9).softmax(dim=-1)
    whole = dino_loss(student, targets, 0.1, 7)
    parts = [dino_loss(student[:, s], targets[:, s], 0.1, 7) for s in (slice(3), slice(3, 7))]
    torch.testing.assert_close(sum(parts), whole)
    assert dino_loss(student[:, :0], targets[:, :0], 0.1, 7).item() == 0.0


def test_no_gradient_reaches_the_teacher_and_autocast_changes_nothing(draw):
    student, targets = draw(3, 2, 8).requires_grad_(), draw(2, 2, 8).softmax(-1).requires_grad_()
    plain = dino_loss(student, targets, 0.1, 2)
    plain.backward()
    assert targets.grad is None
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(dino_loss(student, targets, 0.1, 2), plain)


@pytest.mark.parametrize(
    ("student", "targets"), [((1, 2, 4), (1, 2, 4)), ((2, 2, 4), (3, 2, 4)), ((3, 2, 4), (2, 1, 4))]
)
def test_views_that_make_no_pair_or_do_not_match_are_refused(student, targets):
    with pytest.raises(ValueError, match="views"):
        dino_loss(torch.zeros(student), torch.zeros(targets), 0.1, 2)
