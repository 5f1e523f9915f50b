"""Ranks: the processes that train one slide encoder together.

Every rank has some of a step's slides. Losses are written as shares: what a rank's slides add to
the loss of the whole step, so that shares (and their gradients) summed over ranks are the loss
(and the gradient) that one process would have computed. `Ranks` has what that takes, and does
nothing where there is one process. Reads the environment that `torchrun` sets; nothing else.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


@dataclass(frozen=True)
class Ranks:
    """The processes of a training.

    Attributes:
        rank: This one, from 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, without gradient; the same shape on every rank.

        On one process it is the tensor itself, in the same memory.
        """
        if self.size == 1:
            return tensor.detach()
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    def count(self, number: int, device: torch.device) -> int:
        """Sum of a host's number over ranks."""
        if self.size == 1:
            return number
        return int(self.sum(torch.tensor(number, dtype=torch.int64, device=device)))

    def gather(self, rows: Tensor) -> tuple[Tensor, int]:
        """Rows of all ranks, in the order of ranks, with gradient to the rank they came from.

        Args:
            rows: (n, ...); n may differ between ranks, and be 0. All ranks have to take their rows
                with gradient, or none, and go backward through them as often as the others.

        Returns:
            The rows of all, and the index of this rank's first one among them.
        """
        if self.size == 1:
            return rows, 0
        mine = torch.tensor([len(rows)], device=rows.device)
        counts = [torch.zeros_like(mine) for _ in range(self.size)]
        dist.all_gather(counts, mine)
        sizes = [int(count) for count in counts]
        parts = _Gather.apply(rows, self.rank, max(sizes))
        kept = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
        return kept, sum(sizes[: self.rank])

    def sum_gradients(self, module: torch.nn.Module) -> None:
        """Sum the gradients of a module's parameters over ranks, in place.

        A parameter that has no gradient on any rank keeps none, as it would on one process, and an
        optimiser passes it over; one that has none on this rank alone gets that of the others.

        One message: a slide encoder is small beside the work of a step, so that there is nothing to
        win by sending while the backward pass still runs.
        """
        parameters = [p for p in module.parameters() if p.requires_grad]
        if self.size == 1 or not parameters:
            return
        device = parameters[0].device
        asked = torch.tensor([p.grad is not None for p in parameters], device=device)
        askers = self.sum(asked.int()).tolist()
        used = [p for p, count in zip(parameters, askers, strict=True) if count]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in used]
        if not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])
        for parameter, gradient, part in zip(used, gradients, parts, strict=True):
            parameter.grad = gradient.copy_(part.view_as(gradient))

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()


class _Gather(torch.autograd.Function):
    """All ranks' rows, padded to the longest; the backward pass sums what each rank asks back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, longest: int) -> Tensor:  # noqa: ANN401  # noqa: ANN401
        ctx.rank, ctx.rows = rank, len(rows)
        padded = rows.new_zeros((longest, *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, padded)
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401  # noqa: ANN401
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.rank, : ctx.rows], None, None


def join(device: str) -> Ranks:
    """Join the processes that `torchrun` started, if it did.

    Args:
        device: `cpu` (gloo) or `cuda` (nccl; this rank's own GPU is made the current one).
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Ranks()
    if not dist.is_initialized():
        cuda = torch.device(device).type == "cuda"
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if cuda else "gloo")
    return Ranks(dist.get_rank(), dist.get_world_size())


def own_device(device: str, ranks: Ranks) -> str:
    """The device of this process: its own GPU where there are several processes."""
    if ranks.size > 1 and torch.device(device).type == "cuda":
        return f"cuda:{torch.cuda.current_device()}"
    return device


def leave() -> None:
    """Leave the other processes, if any."""
    if dist.is_initialized():
        dist.destroy_process_group()
