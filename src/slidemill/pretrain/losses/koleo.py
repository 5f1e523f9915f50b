"""KoLeo: embeddings of different slides are kept away from their nearest neighbour.

Nothing is read or written. Sablayrolles et al. 2019 (arXiv:1806.03198), equation 2, on unit
vectors as in DINOv2 (Oquab et al. 2023, arXiv:2304.07193): the estimate of Kozachenko and Leonenko
of the differential entropy, negated and without its constants.
"""

import torch
from torch import Tensor
from torch.nn import functional

from slidemill.pretrain.distributed import Ranks
from slidemill.pretrain.losses.precision import full_precision

EPSILON = 1e-8
"""Added to distances: two equal embeddings cost 18.4 instead of an infinity."""


def koleo_loss(embeddings: Tensor, ranks: Ranks, total: int) -> Tensor:
    """-1/total sum_i log(|x_i - x_nn(i)| + 1e-8), x on the unit sphere.

    Neighbours are sought among the rows of all ranks; the gradient reaches both ends of each pair.
    Call it once for every global crop, with one row a slide: two views of one slide are meant to
    be near and must not be each other's neighbours. Equal rows have no direction to part in and
    get no gradient.

    Args:
        embeddings: (n, width), slide embeddings of this rank for one crop; n may be 0 if other
            ranks have rows.
        ranks: The processes; every one has to call it.
        total: Rows of the whole step, over all ranks and accumulated batches; neighbours are
            sought within the batch of this call.

    Returns:
        This rank's share of the loss; a scalar.

    Raises:
        ValueError: If there are fewer than two rows over all ranks.
    """
    with full_precision(embeddings):
        points = functional.normalize(embeddings.float(), dim=-1)
        everyone, first = gather_points(points, ranks, total)
        with torch.no_grad():
            cosines = points @ everyone.T
            own = torch.arange(len(points), device=points.device)
            cosines[own, first + own] = -2.0
            nearest = cosines.argmax(dim=1)
        distances: Tensor = torch.linalg.vector_norm(points - everyone[nearest], dim=-1)
        return -(distances + EPSILON).log().sum() / total


def gather_points(points: Tensor, ranks: Ranks, total: int) -> tuple[Tensor, int]:
    """Rows of all ranks, with gradient, and the index of this rank's first.

    Raises:
        ValueError: If there are fewer than two, or more than the step is said to have.
    """
    everyone, first = ranks.gather(points)
    if not 2 <= len(everyone) <= total:
        raise ValueError(
            f"a regulariser of {len(everyone)} slide(s) in a step of {total}: it compares slides, "
            "and takes at least 2 a batch"
        )
    return everyone, first
