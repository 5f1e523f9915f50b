import copy
import math

import pytest
import torch
from lightly.loss.ibot_loss import IBOTPatchLoss
from torch.utils._python_dispatch import TorchDispatchMode

from slidemill.pretrain.distributed import Ranks
from slidemill.pretrain.head import ProjectionHead
from slidemill.pretrain.losses.ibot import chunked_ibot, head_blocks, ibot_loss
from slidemill.pretrain.losses.targets import (
    Centring,
    sinkhorn,
    sinkhorn_shift,
)

HIDDEN = (4, 0, 7, 1)
"""Hidden tiles of four crops, one without."""


def weights_of(counts):
    return torch.cat([torch.full((n,), 1.0 / max(n, 1)) for n in counts])


def mask_of(counts):
    mask = torch.zeros(len(counts), 3, 4, dtype=torch.bool)
    for crop, count in zip(mask, counts, strict=True):
        crop.view(-1)[:count] = True
    return mask


def test_loss_gradient_and_centre_are_lightly_s_over_many_steps(draw):
    centring, theirs = Centring(30, 0.9), IBOTPatchLoss(30, center_momentum=0.9)
    tiles = sum(HIDDEN)
    for _ in range(4):
        teacher, student = draw(tiles, 30), draw(tiles, 30).requires_grad_()
        other = student.detach().clone().requires_grad_()
        targets = centring.targets(teacher, 0.05)
        loss = ibot_loss(student, targets, weights_of(HIDDEN), 0.1, len(HIDDEN))
        expected = theirs(teacher, other, mask_of(HIDDEN), teacher_temp=0.05)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        loss.backward()
        expected.backward()
        torch.testing.assert_close(student.grad, other.grad, atol=1e-7, rtol=1e-5)
        centring.observe(teacher, Ranks())
        centring.advance()
        torch.testing.assert_close(centring.centre, theirs.center.value[0], atol=1e-6, rtol=1e-5)


def test_uniform_outputs_give_log_k_times_the_share_of_crops_with_hidden_tiles():
    tiles = sum(HIDDEN)
    targets = torch.full((tiles, 20), 0.05)
    loss = ibot_loss(torch.zeros(tiles, 20), targets, weights_of(HIDDEN), 0.1, len(HIDDEN))
    assert loss.item() == pytest.approx(0.75 * math.log(20), rel=1e-6)


def test_shares_of_batches_add_up_and_no_hidden_tile_gives_nothing(draw):
    student, targets = draw(12, 9), draw(12, 9).softmax(dim=-1)
    weights = weights_of(HIDDEN)
    whole = ibot_loss(student, targets, weights, 0.1, 4)
    parts = [
        ibot_loss(student[s], targets[s], weights[s], 0.1, 4) for s in (slice(4), slice(4, 12))
    ]
    torch.testing.assert_close(sum(parts), whole)
    assert ibot_loss(student[:0], targets[:0], weights[:0], 0.1, 4).item() == 0.0


def test_autocast_changes_nothing_and_mismatches_are_refused(draw):
    student, targets, weights = draw(12, 9), draw(12, 9).softmax(dim=-1), weights_of(HIDDEN)
    with torch.autocast("cpu", torch.bfloat16):
        cast = ibot_loss(student, targets, weights, 0.1, 4)
    assert torch.equal(cast, ibot_loss(student, targets, weights, 0.1, 4))
    with pytest.raises(ValueError, match="do not match"):
        ibot_loss(student, targets[:11], weights, 0.1, 4)
    with pytest.raises(ValueError, match="do not match"):
        ibot_loss(student, targets, weights[:11], 0.1, 4)


def networks():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return ProjectionHead(16, 400, 32, 4), ProjectionHead(16, 400, 32, 4)


def chunked(student_head, teacher_head, student, teacher, weights, shift, chunk):
    return chunked_ibot(
        student_head,
        student,
        teacher_head,
        teacher,
        weights,
        shift=shift,
        student_temperature=0.1,
        teacher_temperature=0.04,
        crops=4,
        chunk=chunk,
    )


@pytest.mark.parametrize("kind", ["centring", "sinkhorn"])
@pytest.mark.parametrize("chunk", [1, 5, 12, 100])
def test_chunks_give_value_and_gradient_of_the_whole(draw, chunk, kind):
    student_head, teacher_head = networks()
    copied = copy.deepcopy(student_head)
    student, teacher = draw(12, 16).requires_grad_(), draw(12, 16)
    other = student.detach().clone().requires_grad_()
    weights = weights_of(HIDDEN)
    if kind == "centring":
        centring = Centring(400, 0.9)
        centring.centre.copy_(0.1 * draw(400))
        targets = centring.targets(teacher_head(teacher), 0.04)
        shift = centring.shift(0.04)
    else:
        targets = sinkhorn(teacher_head(teacher), 0.04, Ranks())
        shift = sinkhorn_shift(head_blocks(teacher_head, teacher, chunk), 0.04, Ranks())
    expected = ibot_loss(copied(other), targets, weights, 0.1, 4)
    loss = chunked(student_head, teacher_head, student, teacher, weights, shift, chunk)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(student.grad, other.grad, atol=1e-6, rtol=1e-4)
    for ours, whole in zip(student_head.parameters(), copied.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, whole.grad, atol=1e-5, rtol=1e-4)
    assert all(parameter.grad is None for parameter in teacher_head.parameters())


class Tallest(TorchDispatchMode):
    """The most rows that a result over prototypes has."""

    rows = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.ndim == 2 and result.shape[1] == 400:
            self.rows = max(self.rows, len(result))
        return result


def test_outputs_of_no_more_than_a_chunk_exist_and_none_is_kept(draw):
    student_head, teacher_head = networks()
    student, teacher = draw(60, 16).requires_grad_(), draw(60, 16)
    kept = []

    def note(tensor):
        kept.append(tensor.numel())
        return tensor

    with Tallest() as mode, torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        shift = sinkhorn_shift(head_blocks(teacher_head, teacher, 7), 0.04, Ranks())
        weights = torch.full((60,), 0.1)
        loss = chunked(student_head, teacher_head, student, teacher, weights, shift, 7)
    assert mode.rows == 7
    assert max(kept, default=0) < 7 * 400
    with mode:
        loss.backward()
    assert mode.rows == 7


def test_no_hidden_tile_gives_nothing_and_a_gradient_of_zero(draw):
    student_head, teacher_head = networks()
    student, teacher = draw(0, 16).requires_grad_(), draw(0, 16)
    loss = chunked(
        student_head, teacher_head, student, teacher, torch.zeros(0), torch.zeros(400), 8
    )
    loss.backward()
    assert loss.item() == 0.0
    assert student_head.prototypes.grad.abs().max() == 0.0


def test_tokens_that_do_not_match_are_refused(draw):
    student_head, teacher_head = networks()
    with pytest.raises(ValueError, match="2 tokens of the student, 3 of the teacher"):
        chunked(
            student_head, teacher_head, draw(2, 16), draw(3, 16), torch.ones(2), torch.zeros(400), 8
        )
