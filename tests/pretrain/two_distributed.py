"""What two processes do with `Ranks`; run by `test_distributed.py`.

Arguments: the folder for results, and this process's rank.
"""

import torch
from torch import Tensor, nn

from pretrain.processes import as_rank
from slidemill.pretrain.distributed import Ranks

COUNTS = ((3, 5), (4, 0), (0, 2), (1, 1))
"""Rows of the first rank and of the second."""


def rows_of(counts: tuple[int, int]) -> Tensor:
    """The rows of both ranks."""
    generator = torch.Generator().manual_seed(sum(counts))
    return torch.randn(sum(counts), 3, generator=generator, dtype=torch.float64)


def loss_of(mine: Tensor, everyone: Tensor) -> Tensor:
    """A share of a loss that compares every row with every other."""
    return (mine @ everyone.T).cos().sum()


def gathered(ranks: Ranks, counts: tuple[int, int]) -> dict[str, Tensor]:
    """Rows of all, where one's own begin, and the gradient of one's own."""
    mine = rows_of(counts).split(counts)[ranks.rank].clone().requires_grad_()
    everyone, first = ranks.gather(mine)
    loss = loss_of(mine, everyone)
    loss.backward()
    assert mine.grad is not None
    detached, _ = ranks.gather(mine.detach())
    return {
        "everyone": everyone.detach(),
        "detached": detached,
        "first": torch.tensor(first),
        "loss": loss.detach(),
        "gradient": mine.grad,
    }


def module() -> nn.ModuleDict:
    """Parameters that get a gradient on both ranks, on the first, on the second and on none."""
    names = ("both", "first", "second", "none", "frozen")
    made = nn.ModuleDict({name: nn.Linear(2, 2, bias=False) for name in names})
    made["frozen"].requires_grad_(False)
    made["low"] = nn.Linear(2, 2, bias=False).half()
    return made


def summed(ranks: Ranks) -> dict[str, Tensor]:
    """Gradients after they were summed; those that are None are left out."""
    made = module()
    for name, value in (("both", 1.0), (("first", "second")[ranks.rank], 10.0), ("low", 4.0)):
        weight = made[name].weight
        weight.grad = torch.full_like(weight, value * (1 + ranks.rank))
    ranks.sum_gradients(made)
    return {name: p.grad for name, p in made.named_parameters() if p.grad is not None}


def work(ranks: Ranks) -> dict[str, object]:
    """Everything."""
    mine = torch.full((2, 3), 1.0 + ranks.rank, requires_grad=True)
    total = ranks.sum(mine)
    asked = total.requires_grad
    total += 1.0  # not what was given
    nothing = nn.Linear(1, 1)
    ranks.sum_gradients(nothing)
    ranks.sum_gradients(nn.GELU())
    ranks.barrier()
    return {
        "sum": total,
        "asked": asked,
        "given": mine.detach(),
        "count": ranks.count(5 + ranks.rank, torch.device("cpu")),
        "gathered": [gathered(ranks, counts) for counts in COUNTS],
        "summed": summed(ranks),
        "nothing": nothing.weight.grad is None,
    }


if __name__ == "__main__":
    as_rank(work)
