import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import vonmises_fisher

from slidemill.pretrain.distributed import Ranks
from slidemill.pretrain.losses.kde import kde_loss


@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(2, 20),
    width=st.integers(2, 40),
    concentration=st.floats(0.1, 50.0),
)
@settings(max_examples=40, deadline=None)
def test_loss_is_scipy_s_logsumexp(seed, rows, width, concentration):
    points = np.random.default_rng(seed).normal(size=(rows, width))
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    exponents = concentration * unit @ unit.T
    np.fill_diagonal(exponents, -np.inf)
    expected = (logsumexp(exponents, axis=1) - np.log(rows - 1)).mean()
    loss = kde_loss(torch.from_numpy(points), Ranks(), rows, concentration)
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_loss_is_the_log_density_of_a_mixture_but_for_a_constant(draw):
    unit = torch.nn.functional.normalize(draw(6, 3).double(), dim=1).numpy()
    logs = []
    for i in range(6):
        others = [vonmises_fisher(unit[j], 5.0).pdf(unit[i]) for j in range(6) if j != i]
        logs.append(np.log(np.mean(others)))
    constant = np.log(5.0 / (4 * np.pi * np.sinh(5.0)))
    loss = kde_loss(torch.from_numpy(unit), Ranks(), 6)
    assert loss.item() == pytest.approx(np.mean(logs) - constant, rel=1e-5)


def test_closed_forms():
    opposite = torch.tensor([[2.0, 0.0], [-5.0, 0.0]])
    assert kde_loss(opposite, Ranks(), 2).item() == pytest.approx(-5.0)
    assert kde_loss(opposite, Ranks(), 2, 3.0).item() == pytest.approx(-3.0)
    assert kde_loss(torch.eye(7), Ranks(), 7).item() == pytest.approx(0.0, abs=1e-6)
    assert kde_loss(torch.ones(4, 3), Ranks(), 4).item() == pytest.approx(5.0)
    assert kde_loss(torch.ones(4, 3), Ranks(), 8).item() == pytest.approx(2.5)


def test_it_is_smaller_where_embeddings_are_spread(draw):
    noise = draw(16, 8)
    losses = [kde_loss(torch.ones(16, 8) + s * noise, Ranks(), 16).item() for s in (0.1, 0.5, 3.0)]
    assert losses[0] > losses[1] > losses[2]


def test_gradient_is_that_of_differences_and_finite_where_rows_are_equal(draw):
    rows = draw(5, 4).requires_grad_()
    kde_loss(rows, Ranks(), 5).backward()
    step = draw(5, 4)
    with torch.no_grad():
        ahead, behind = (
            kde_loss(rows + 1e-2 * step, Ranks(), 5),
            kde_loss(rows - 1e-2 * step, Ranks(), 5),
        )
    slope = (ahead - behind).item() / 2e-2
    assert (rows.grad * step).sum().item() == pytest.approx(slope, rel=1e-2)
    equal = torch.ones(3, 4, requires_grad=True)
    kde_loss(equal, Ranks(), 3).backward()
    assert equal.grad.isfinite().all()


def test_autocast_changes_nothing_and_one_slide_is_refused(draw):
    rows = draw(9, 16)
    with torch.autocast("cpu", torch.bfloat16):
        cast = kde_loss(rows, Ranks(), 9)
    assert torch.equal(cast, kde_loss(rows, Ranks(), 9))
    with pytest.raises(ValueError, match="at least 2 a batch"):
        kde_loss(rows[:1], Ranks(), 1)
