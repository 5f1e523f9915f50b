"""Schedules of a training run, as pure functions of the step.

They keep no state, so a run that is resumed at a step goes on with the values it would have had.
Half cosines go by step / steps, as DINO's do (Caron et al. 2021, arXiv:2104.14294): the last value
would be that of the step after the last.
"""

import math


def learning_rate(step: int, steps: int, *, peak: float, warmup_steps: int) -> float:
    """Linear warm-up, then half a cosine to 0 (Loshchilov & Hutter 2017, arXiv:1608.03983).

    DINO's goes from 0 in the first step, which then learns nothing, and ends at 1e-6.

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
    return _half_cosine(step, steps, first, 1.0)


def weight_decay(step: int, steps: int, *, first: float, last: float) -> float:
    """Weight decay: half a cosine from `first` to `last` (Caron et al. 2021, appendix C).

    Args:
        step: The step, from 0.
        steps: Steps of the whole run.
        first: Weight decay in the first step.
        last: What it tends to.

    Raises:
        ValueError: If the step is not one of the run.
    """
    return _half_cosine(step, steps, first, last)


def teacher_temperature(
    step: int, steps: int, *, first: float, last: float, warmup_steps: int
) -> float:
    """Temperature of the teacher: a line from `first` to `last`, then constant.

    A sharp teacher at the start keeps targets from being uniform. DINO has a step an epoch and
    reaches `last` in the last epoch of the warm-up; here it is reached in the step after it, so
    that a warm-up of no step and of one step mean what they say.

    Args:
        step: The step, from 0.
        steps: Steps of the whole run.
        first: Temperature in the first step, if there is a warm-up.
        last: Temperature from step `warmup_steps` on.
        warmup_steps: Steps with a changing temperature.

    Raises:
        ValueError: If the step is not one of the run.
    """
    _check(step, steps)
    if step >= warmup_steps:
        return last
    return first + (last - first) * step / warmup_steps


def _half_cosine(step: int, steps: int, first: float, last: float) -> float:
    _check(step, steps)
    return last - (last - first) * 0.5 * (1.0 + math.cos(math.pi * step / steps))


def _check(step: int, steps: int) -> None:
    if not 0 <= step < steps:
        raise ValueError(f"step {step} is not one of a run of {steps} steps")
