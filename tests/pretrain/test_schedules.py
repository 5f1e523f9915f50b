import itertools
import math

import pytest

from slidemill.pretrain.schedules import learning_rate, teacher_momentum


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


def test_teacher_momentum_rises_from_first_towards_one():
    values = [teacher_momentum(step, 8, first=0.9) for step in range(8)]
    assert values[0] == pytest.approx(0.9)
    assert values[4] == pytest.approx(0.95)
    assert values[2] == pytest.approx(1.0 - 0.05 * (1.0 + math.sqrt(0.5)))
    assert all(a < b < 1.0 for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("step", [-1, 8])
def test_a_step_outside_the_run_is_refused(step):
    with pytest.raises(ValueError, match="8 steps"):
        learning_rate(step, 8, peak=1.0, warmup_steps=1)
    with pytest.raises(ValueError, match="8 steps"):
        teacher_momentum(step, 8, first=0.9)
