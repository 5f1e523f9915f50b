"""The teacher: a moving average of its student."""

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def update_average(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher's parameters: teacher <- momentum * teacher + (1 - momentum) * student.

    Buffers are left alone: they are constants of the training set, equal in both.

    Args:
        teacher: Changed in place.
        student: A module of the same parameters, in the same order.
        momentum: In [0, 1]; of 1, the teacher stays as it is.
    """
    average = get_ema_multi_avg_fn(momentum)
    average(list(teacher.parameters()), list(student.parameters()), torch.empty(0))
