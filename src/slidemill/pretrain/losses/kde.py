"""KDE: embeddings of different slides are kept where there are few others.

Nothing is read or written. The log of a kernel density estimate on the sphere, with the von
Mises-Fisher kernel, at every embedding. Virchow2 (Zimmermann et al. 2024, arXiv:2408.00738) has it
in place of KoLeo: it is smooth, and bounded where embeddings are equal. Wang & Isola 2020
(arXiv:2005.10242), equation 4, has the logarithm outside the mean over i, and a Gaussian kernel,
which on the sphere is the same kernel: exp(-t |x - y|^2) = exp(-2t) exp(2t x.y).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from slidemill.pretrain.distributed import Ranks
from slidemill.pretrain.losses.koleo import gather_points
from slidemill.pretrain.losses.precision import full_precision

CONCENTRATION = 5.0
"""Concentration of the kernel: it is at half of its peak where the cosine is 0.86."""


def kde_loss(
    embeddings: Tensor, ranks: Ranks, total: int, concentration: float = CONCENTRATION
) -> Tensor:
    """1/total sum_i log mean_{j != i} exp(concentration x_i.x_j), x on the unit sphere.

    The kernel's normalisation, a constant, is left out. The loss is `concentration` where all
    embeddings are equal, 0 where they are orthogonal, and -concentration for two that are opposite.
    Call it once for every global crop, with one row a slide, as `koleo_loss`.

    Args:
        embeddings: (n, width), slide embeddings of this rank for one crop; n may be 0 if other
            ranks have rows.
        ranks: The processes; every one has to call it.
        total: Rows of the whole step, over all ranks and accumulated batches; the density is that
            of the batch of this call.
        concentration: Concentration of the kernel, above 0.

    Returns:
        This rank's share of the loss; a scalar.

    Raises:
        ValueError: If there are fewer than two rows over all ranks.
    """
    with full_precision(embeddings):
        points = functional.normalize(embeddings.float(), dim=-1)
        everyone, first = gather_points(points, ranks, total)
        exponents = concentration * (points @ everyone.T)
        own = torch.arange(len(points), device=points.device)
        self_pairs = torch.zeros_like(exponents, dtype=torch.bool)
        self_pairs[own, first + own] = True
        density = exponents.masked_fill(self_pairs, -math.inf).logsumexp(dim=1)
        return (density - math.log(len(everyone) - 1)).sum() / total
