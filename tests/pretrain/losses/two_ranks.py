"""One of two processes that compute shares of the losses; run by `test_ranks.py`.

Arguments: the folder for results, and this process's rank.
"""

import torch

from pretrain.processes import as_rank
from slidemill.pretrain.distributed import Ranks
from slidemill.pretrain.head import ProjectionHead
from slidemill.pretrain.losses.dino import dino_loss
from slidemill.pretrain.losses.ibot import chunked_ibot, head_blocks
from slidemill.pretrain.losses.kde import kde_loss
from slidemill.pretrain.losses.koleo import koleo_loss
from slidemill.pretrain.losses.targets import Centring, sinkhorn, sinkhorn_shift

SLIDES, OWN = 7, (slice(0, 5), slice(5, 7))
"""Slides of the step, and those of each rank."""
TILES, OWN_TILES = 9, (slice(0, 9), slice(9, 9))
"""Hidden tiles of the step, and those of each rank: the second has none."""


def step(ranks: Ranks, own: slice, own_tiles: slice) -> dict[str, torch.Tensor]:
    """Shares, targets and gradients of some slides and tiles of the step."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    head, teacher_head = ProjectionHead(6, 20, 12, 5), ProjectionHead(6, 20, 12, 5)
    student = torch.randn(4, SLIDES, 6, generator=generator)[:, own].requires_grad_()
    teacher = torch.randn(2, SLIDES, 6, generator=generator)[:, own]
    tiles = torch.randn(TILES, 6, generator=generator)[own_tiles].requires_grad_()
    seen = torch.randn(TILES, 6, generator=generator)[own_tiles]
    weights = torch.full((TILES,), 1 / 3)[own_tiles]
    rows = teacher_head(teacher).flatten(end_dim=1).detach()
    result = {"sinkhorn": sinkhorn(rows, 0.05, ranks).unflatten(0, (2, -1))}
    shift = sinkhorn_shift(head_blocks(teacher_head, seen, 4), 0.05, ranks)
    centring = Centring(20, 0.9)
    for part in rows.split(3)[:2]:
        centring.observe(part, ranks)
    centring.observe(rows[6:], ranks)
    centring.advance()
    shares = {
        "dino": dino_loss(head(student), result["sinkhorn"], 0.1, SLIDES),
        "koleo": koleo_loss(student[0], ranks, SLIDES),
        "kde": kde_loss(student[1], ranks, SLIDES),
        "ibot": chunked_ibot(
            head,
            tiles,
            teacher_head,
            seen,
            weights,
            shift=shift,
            student_temperature=0.1,
            teacher_temperature=0.05,
            crops=5,
            chunk=4,
        ),
    }
    torch.stack(list(shares.values())).sum().backward()
    assert student.grad is not None
    assert tiles.grad is not None
    ranks.sum_gradients(head)
    result |= {name: share.detach() for name, share in shares.items()}
    result |= {"shift": shift, "centre": centring.centre, "student": student.grad}
    result |= {"tiles": tiles.grad}
    result |= {f"head.{name}": p.grad for name, p in head.named_parameters() if p.grad is not None}
    return result


if __name__ == "__main__":
    as_rank(lambda ranks: step(ranks, OWN[ranks.rank], OWN_TILES[ranks.rank]))
