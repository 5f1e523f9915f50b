"""Arithmetic of the losses: float32, whatever the caller's autocast."""

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> torch.autocast:
    """A context without autocast on the device of a tensor.

    Logarithms of probabilities, distances of near neighbours and cosines over a temperature lose
    what they are about in bfloat16.
    """
    return torch.autocast(device_type=tensor.device.type, enabled=False)
