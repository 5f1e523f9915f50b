"""The head that maps embeddings to prototypes; used in training only.

Nothing is read or written. Caron et al. 2021 (arXiv:2104.14294), appendix C: a 3-layer MLP, an L2
norm, and a linear layer of unit weights.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from slidemill.pretrain.losses.precision import full_precision


class ProjectionHead(nn.Module):
    """Projection onto prototypes: a 3-layer MLP, L2 norm, then cosines with unit prototypes.

    Prototypes are normalised at every use, which is weight normalisation with its gain fixed at 1,
    without bias. Linear weights are drawn as in the recipe, normal with deviation 0.02 (the
    published cut at 2 is 100 deviations away), and biases are 0. Glorot's scale tells fresh
    slides apart no better.

    Args:
        width: Width of the embedding.
        prototypes: Number K of outputs.
        hidden: Width of the two hidden layers.
        bottleneck: Width of the vector that meets the prototypes.

    Attributes:
        prototypes: float32 (K, bottleneck) parameter; of any length, only directions count.
    """

    def __init__(
        self, width: int, prototypes: int, hidden: int = 2048, bottleneck: int = 256
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        for part in self.mlp:
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)
        # Of length about 1, so that a step of Adam turns a prototype as far as it moves it.
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        nn.init.normal_(self.prototypes, std=bottleneck**-0.5)

    def forward(self, embedding: Tensor) -> Tensor:
        """Map embeddings (n, width) to cosines with prototypes, float32 (n, K), in [-1, 1].

        The MLP follows the caller's autocast; what follows it is in float32 always, since cosines
        are divided by temperatures of some hundredths and bfloat16 would err by a tenth there.
        """
        mixed = self.mlp(embedding)
        with full_precision(mixed):
            point = functional.normalize(mixed.float(), dim=-1)
            return functional.linear(point, functional.normalize(self.prototypes.float(), dim=-1))
