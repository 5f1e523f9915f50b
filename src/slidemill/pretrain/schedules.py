"""Schedules of a training run, as pure functions of the step.

They keep no state, so a run that is resumed at a step goes on with the values it would have had.
"""

import math


def learning_rate(step: int, steps: int, *, peak: float, warmup_steps: int) -> float:
    """Linear warm-up, then half a cosine to 0 (Loshchilov & Hutter 2017, arXiv:1608.03983).

    Args:
        step: The step, from 0.
        steps: Steps of the whole run.
        peak: Highest learning rate, reached in the last step of the warm-up.
        warmup_steps: Steps with a rising rate: peak * (step + 1) / warmup_steps.

    Returns:
        The learning rate of the step, above 0 in every step.

    Raises:
        ValueError: If the step is not one of the run.
    """
    _check(step, steps)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / (steps - warmup_steps)
    return peak * 0.5 * (1.0 + math.cos(math.pi * done))


def teacher_momentum(step: int, steps: int, *, first: float) -> float:
    """Momentum of the teacher's moving average: half a cosine from `first` to 1.

    1 - (1 - first) (1 + cos(pi step / steps)) / 2: Grill et al. 2020 (arXiv:2006.07733).

    Args:
        step: The step, from 0.
        steps: Steps of the whole run.
        first: Momentum in the first step.

    Raises:
        ValueError: If the step is not one of the run.
    """
    _check(step, steps)
    return 1.0 - (1.0 - first) * 0.5 * (1.0 + math.cos(math.pi * step / steps))


def _check(step: int, steps: int) -> None:
    if not 0 <= step < steps:
        raise ValueError(f"step {step} is not one of a run of {steps} steps")
