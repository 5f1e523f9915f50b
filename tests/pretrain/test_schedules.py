import itertools
import math

import numpy as np
import pytest
import torch
from lightly.utils.scheduler import (
    CosineWarmupScheduler,
    cosine_schedule,
    linear_warmup_schedule,
)

from slidemill.pretrain.schedules import (
    learning_rate,
    teacher_momentum,
    teacher_temperature,
    weight_decay,
)


def test_learning_rate_rises_in_a_line_then_falls_by_a_cosine():
    rates = [learning_rate(step, 14, peak=2.0, warmup_steps=4) for step in range(14)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0
    assert rates[9] == pytest.approx(1.0)
    assert rates[13] == pytest.approx(1.0 + math.cos(0.9 * math.pi))
    assert all(a > b > 0.0 for a, b in itertools.pairwise(rates[4:]))


@pytest.mark.parametrize("warmup_steps", [0, 1, 5])
def test_learning_rate_is_positive_for_any_warmup(warmup_steps):
    rates = [learning_rate(step, 5, peak=1.0, warmup_steps=warmup_steps) for step in range(5)]
    assert max(rates) == 1.0
    assert min(rates) > 0.0


@pytest.mark.parametrize("warmup_steps", [0, 1, 7, 29])
def test_learning_rate_is_lightly_s_scheduler_with_a_last_step_at_zero(warmup_steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=5e-4)
    scheduler = CosineWarmupScheduler(optimizer, warmup_steps, 31, end_value=0.0)
    for step in range(30):
        ours = learning_rate(step, 30, peak=5e-4, warmup_steps=warmup_steps)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-15)
        optimizer.step()
        scheduler.step()


def test_teacher_momentum_rises_from_first_towards_one():
    values = [teacher_momentum(step, 8, first=0.9) for step in range(8)]
    assert values[0] == pytest.approx(0.9)
    assert values[4] == pytest.approx(0.95)
    assert values[2] == pytest.approx(1.0 - 0.05 * (1.0 + math.sqrt(0.5)))
    assert all(a < b < 1.0 for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("steps", [1, 2, 50])
def test_half_cosines_are_lightly_s_and_dino_s(steps):
    """Lightly reaches the end in its last step, so that its run is a step longer."""
    at = np.arange(steps)
    for step in at.tolist():
        decay = weight_decay(step, steps, first=0.04, last=0.4)
        momentum = teacher_momentum(step, steps, first=0.996)
        assert decay == pytest.approx(cosine_schedule(step, steps + 1, 0.04, 0.4), abs=1e-12)
        assert momentum == pytest.approx(cosine_schedule(step, steps + 1, 0.996, 1.0), abs=1e-12)
    # Caron et al.: final + 0.5 (base - final) (1 + cos(pi i / len)), i from 0 to len - 1.
    dino = 0.4 + 0.5 * (0.04 - 0.4) * (1 + np.cos(np.pi * at / steps))
    ours = [weight_decay(step, steps, first=0.04, last=0.4) for step in at.tolist()]
    np.testing.assert_allclose(ours, dino, rtol=1e-12)


def test_weight_decay_goes_from_first_to_last_either_way():
    rising = [weight_decay(step, 4, first=0.0, last=1.0) for step in range(4)]
    assert rising == pytest.approx([0.0, 0.5 - math.sqrt(0.125), 0.5, 0.5 + math.sqrt(0.125)])
    falling = [weight_decay(step, 4, first=1.0, last=0.0) for step in range(4)]
    assert falling == pytest.approx([1.0 - value for value in rising])
    assert {weight_decay(step, 9, first=0.1, last=0.1) for step in range(9)} == {0.1}


@pytest.mark.parametrize("warmup_steps", [0, 1, 6, 10, 20])
def test_teacher_temperature_is_a_line_and_then_constant(warmup_steps):
    values = [
        teacher_temperature(step, 10, first=0.04, last=0.07, warmup_steps=warmup_steps)
        for step in range(10)
    ]
    lightly = [linear_warmup_schedule(step, warmup_steps, 0.04, 0.07) for step in range(10)]
    assert values == pytest.approx(lightly, abs=1e-12)
    assert values[0] == (0.04 if warmup_steps else 0.07)
    assert set(values[warmup_steps:]) <= {0.07}
    rising = np.linspace(0.04, 0.07, warmup_steps + 1)
    assert values[:warmup_steps] == pytest.approx(rising[: min(warmup_steps, 10)].tolist())


@pytest.mark.parametrize("step", [-1, 8])
def test_a_step_outside_the_run_is_refused(step):
    with pytest.raises(ValueError, match="8 steps"):
        learning_rate(step, 8, peak=1.0, warmup_steps=1)
    with pytest.raises(ValueError, match="8 steps"):
        teacher_momentum(step, 8, first=0.9)
    with pytest.raises(ValueError, match="8 steps"):
        weight_decay(step, 8, first=0.0, last=1.0)
    with pytest.raises(ValueError, match="8 steps"):
        teacher_temperature(step, 8, first=0.04, last=0.07, warmup_steps=3)
