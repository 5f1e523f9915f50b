import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss.koleo_loss import KoLeoLoss
from sklearn.neighbors import NearestNeighbors

from slidemill.pretrain.distributed import Ranks
from slidemill.pretrain.losses.koleo import koleo_loss


@pytest.mark.parametrize(("rows", "width"), [(2, 3), (7, 16), (64, 384)])
def test_loss_and_gradient_are_lightly_s(draw, rows, width):
    ours = draw(rows, width).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    loss, expected = koleo_loss(ours, Ranks(), rows), KoLeoLoss()(theirs)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4)


@given(seed=st.integers(0, 2**31), rows=st.integers(2, 20), width=st.integers(2, 8))
@settings(max_examples=30, deadline=None)
def test_neighbours_are_those_of_a_search_tree(seed, rows, width):
    points = np.random.default_rng(seed).normal(size=(rows, width))
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    distances = NearestNeighbors(n_neighbors=2).fit(unit).kneighbors(unit)[0][:, 1]
    loss = koleo_loss(torch.from_numpy(points), Ranks(), rows)
    assert loss.item() == pytest.approx(-np.log(distances + 1e-8).mean(), rel=1e-3, abs=1e-3)


def test_closed_forms():
    opposite = torch.tensor([[2.0, 0.0], [-5.0, 0.0]])
    assert koleo_loss(opposite, Ranks(), 2).item() == pytest.approx(-math.log(2))
    frame = torch.eye(5)
    assert koleo_loss(frame, Ranks(), 5).item() == pytest.approx(-0.5 * math.log(2), rel=1e-6)
    assert koleo_loss(frame, Ranks(), 10).item() == pytest.approx(-0.25 * math.log(2), rel=1e-6)


def test_equal_rows_are_finite_and_get_no_gradient():
    rows = torch.ones(3, 4, requires_grad=True)
    loss = koleo_loss(rows, Ranks(), 3)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(1e-8), rel=1e-6)
    assert rows.grad.abs().max() == 0.0


def test_a_step_against_the_gradient_parts_neighbours(draw):
    rows = (torch.ones(6, 8) + 0.1 * draw(6, 8)).requires_grad_()
    loss = koleo_loss(rows, Ranks(), 6)
    loss.backward()
    moved = rows.detach() - 1e-3 * rows.grad
    assert koleo_loss(moved, Ranks(), 6) < loss


def test_autocast_changes_nothing(draw):
    rows = draw(9, 16)
    with torch.autocast("cpu", torch.bfloat16):
        cast = koleo_loss(rows, Ranks(), 9)
    assert torch.equal(cast, koleo_loss(rows, Ranks(), 9))


@pytest.mark.parametrize(("rows", "total"), [(0, 2), (1, 1), (1, 8), (3, 2)])
def test_one_slide_is_refused(draw, rows, total):
    with pytest.raises(ValueError, match="at least 2 a batch"):
        koleo_loss(draw(rows, 4), Ranks(), total)
