"""The state of a training in memory: taken from its parts, and put back.

Weights of student and teacher, centres, the optimiser's moments, the watch and the table so far.
Random states are not in it, since no draw depends on those before. Nothing is read or written.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from slidemill.errors import CollapseError
from slidemill.pretrain.methods import Method

METHOD, OPTIMIZER = "method.", "optimizer."
"""What names of tensors begin with."""


@dataclass
class TrainingState:
    """All that a training needs to go on from a step, by name; on the CPU.

    Attributes:
        step: Updates that are done.
        seconds: Wall time that they took.
        tensors: Weights of student and teacher, centres, and the optimiser's moments.
        metrics: float64, one row an update, with the columns of the training's table.
        watch: State of the watch for collapse.
    """

    step: int
    seconds: float
    tensors: dict[str, Tensor]
    metrics: list[list[float]]
    watch: dict[str, int]


def take_tensors(method: Method, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copies of all tensors of a training; later updates do not change them."""
    found = {f"{METHOD}{name}": tensor for name, tensor in method.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        found |= {f"{OPTIMIZER}{number}.{key}": tensor for key, tensor in moments.items()}
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in found.items()}


def put_tensors(
    tensors: dict[str, Tensor], method: Method, optimizer: torch.optim.Optimizer
) -> None:
    """Put the tensors back that `take_tensors` gave."""
    weights: dict[str, Tensor] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(METHOD):
            weights[name.removeprefix(METHOD)] = tensor
        else:
            number, key = name.removeprefix(OPTIMIZER).split(".")
            moments.setdefault(int(number), {})[key] = tensor
    method.load_state_dict(weights)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def check_weights(method: Method, done: int, updates: int) -> None:
    """Refuse weights that the last update made infinite: no loss has shown it yet.

    Args:
        method: The training's networks.
        done: Updates that are done.
        updates: Those of the run.

    Raises:
        CollapseError: If a weight is not finite.
    """
    parameters = [*method.student.parameters(), *method.teacher.parameters()]
    if not bool(torch.stack([p.isfinite().all() for p in parameters]).all()):
        run = method.run
        raise CollapseError(
            f"pretraining {run.name!r} diverged: after {done} of {updates} updates its weights are "
            f"nan or infinite. Lower learning_rate (now {run.learning_rate:g}) or raise warmup "
            f"(now {run.warmup:g})."
        )
