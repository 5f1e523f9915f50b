"""Networks on bags of tiles, M of them side by side.

Each of M networks has weights of its own in slices of joint tensors, and all see the same packed
tiles: one product of matrices serves all of them. What one network gives depends neither on the
others nor on the other bags of a batch.

- abmil: attention pooling of embedded tiles (Ilse et al. 2018, arXiv:1802.04712, equations 8, 9).
- mean-pool: the mean of the embedded tiles.
- max-pool: the largest of the tiles' own outputs (mi-Net of Wang et al. 2018, arXiv:1610.02501),
  which keeps to the assumption that one tile makes a bag positive.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from slidemill.config import AbmilConfig, MilConfig
from slidemill.evaluate.mil.bags import noise_seed

Pooling = Literal["abmil", "mean-pool", "max-pool"]
POOLINGS: tuple[Pooling, ...] = ("abmil", "mean-pool", "max-pool")


@dataclass(frozen=True)
class Shape:
    """What a network looks like.

    Attributes:
        dim: Features of a tile, D.
        outputs: Outputs of a bag, O.
        pooling: How tiles become a bag.
        widths: Widths of the layers that embed a tile; the last is the embedding's.
        dropout: Share of the embedding that is dropped in training.
        attention_width: Width of the attention, for abmil.
        heads: Attention heads, for abmil.
        gated: Whether the attention is gated, for abmil.
        offset: Whether outputs have a bias; Cox's risks have none, since nothing would hold it.
    """

    dim: int
    outputs: int
    pooling: Pooling
    widths: tuple[int, ...]
    dropout: float
    attention_width: int
    heads: int
    gated: bool
    offset: bool = True

    @classmethod
    def of(
        cls,
        pooling: Pooling,
        dim: int,
        outputs: int,
        mil: MilConfig,
        abmil: AbmilConfig,
        *,
        offset: bool = True,
    ) -> "Shape":
        """The shape that settings ask for."""
        widths = (*mil.hidden, mil.width)
        return cls(
            dim, outputs, pooling, widths, mil.dropout, abmil.attention_width, abmil.heads,
            abmil.gated, offset,
        )  # fmt: skip

    def layers(self) -> dict[str, tuple[int, int, bool]]:
        """Inputs, outputs and whether there is a bias, of each linear layer, by its name."""
        sizes = zip((self.dim, *self.widths[:-1]), self.widths, strict=True)
        found = {f"embed{i}": (n_in, n_out, True) for i, (n_in, n_out) in enumerate(sizes)}
        width, pooled = self.widths[-1], self.widths[-1]
        if self.pooling == "abmil":
            found["tanh"] = (width, self.attention_width, True)
            if self.gated:
                found["gate"] = (width, self.attention_width, True)
            # A bias would add the same to all tiles' scores, which softmax ignores.
            found["score"] = (self.attention_width, self.heads, False)
            pooled = width * self.heads
        found["classify"] = (pooled, self.outputs, self.offset)
        return found


def initial_weights(shape: Shape, seed: int) -> dict[str, Tensor]:
    """Weights of one network before training: torch's own initialisation of linear layers.

    Args:
        shape: The network.
        seed: Its seed; the caller's random state is neither used nor changed.

    Returns:
        `<layer>.weight` (out, in) and `<layer>.bias` (out,), float32, on the CPU.
    """
    found: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for name, (n_in, n_out, has_bias) in shape.layers().items():
            layer = nn.Linear(n_in, n_out, bias=has_bias)
            found |= {f"{name}.{key}": value for key, value in layer.state_dict().items()}
    return found


class StackedMil(nn.Module):
    """M networks of one shape.

    Args:
        shape: Their shape.
        seeds: Seed of each; networks of one seed share initial weights and dropout.

    Attributes:
        mean: What is taken from the features of each network, (M, D).
        scale: What the rest is divided by, (M, D).
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, shape: Shape, seeds: Sequence[int]) -> None:
        super().__init__()
        self.shape = shape
        self.seeds = tuple(seeds)
        singles = {seed: initial_weights(shape, seed) for seed in sorted(set(seeds))}
        self.weights = nn.ParameterDict()
        for name in singles[self.seeds[0]]:
            stacked = torch.stack([singles[seed][name] for seed in self.seeds])
            # Weights as (M, in, out), so that tiles (T, in) are multiplied as they are.
            value = stacked.transpose(1, 2) if name.endswith("weight") else stacked.unsqueeze(1)
            self.weights[_key(name)] = nn.Parameter(value.contiguous())
        self.register_buffer("mean", torch.zeros(len(self.seeds), shape.dim))
        self.register_buffer("scale", torch.ones(len(self.seeds), shape.dim))
        self.standardised = False

    def standardise(self, mean: Tensor, scale: Tensor) -> None:
        """Have each network standardise its features by these, (M, D) each."""
        self.mean.copy_(mean)
        self.scale.copy_(scale)
        self.standardised = True

    def forward(
        self,
        features: Tensor,
        lengths: Sequence[int],
        noise: Tensor | None = None,
        chosen: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Outputs and attention of packed bags.

        Args:
            features: Tiles of all bags one behind the other, float32 (T, D).
            lengths: Tiles of each of B bags, none 0, with sum T.
            noise: What the embedding is multiplied by (`dropout_noise`), (M, T, W).
            chosen: Indices of the networks to run, int64; None for all M.

        Returns:
            Outputs (M, B, O); for abmil the attention, the mean over its heads, (M, T), which sums
            to 1 in each bag, else None.
        """
        h = self._embed(features, chosen)
        if noise is not None:
            h = h * noise
        if self.shape.pooling == "max-pool":
            tiles = self._linear("classify", h, chosen)
            return torch.stack([one.amax(1) for one in tiles.split(list(lengths), 1)], 1), None
        blocks = _blocks(lengths, features.device)
        if self.shape.pooling == "mean-pool":
            sizes = torch.tensor(lengths, device=features.device, dtype=h.dtype)
            pooled = (blocks.to(h.dtype) / sizes.unsqueeze(1)) @ h
            return self._linear("classify", pooled, chosen), None
        hidden = torch.tanh(self._linear("tanh", h, chosen))
        if self.shape.gated:
            hidden = hidden * torch.sigmoid(self._linear("gate", h, chosen))
        scores = self._linear("score", hidden, chosen).transpose(1, 2)
        # (M, heads, B, T): the rows of a bag are 0 outside it, so that pooling is one product.
        weights = scores.unsqueeze(2).masked_fill(~blocks, -math.inf).softmax(-1)
        pooled = torch.matmul(weights, h.unsqueeze(1))
        pooled = pooled.transpose(1, 2).flatten(2)
        return self._linear("classify", pooled, chosen), weights.sum(2).mean(1)

    def _embed(self, x: Tensor, chosen: Tensor | None) -> Tensor:
        """Embedded tiles (M, T, W) of tiles (T, D)."""
        weight, bias = self._of("embed0", chosen)
        assert bias is not None
        if self.standardised:
            # ((x - mean) / scale) W + b as one product of x, which is common to all networks.
            mean, scale = self.mean, self.scale
            if chosen is not None:
                mean, scale = mean[chosen], scale[chosen]
            weight = weight / scale.unsqueeze(2)
            # Taken from all networks alike, a common shift keeps digits and changes nothing else.
            shift = mean.mean(0)
            x = x - shift
            bias = bias - torch.bmm((mean - shift).unsqueeze(1), weight)
        everyone = x.expand(len(weight), *x.shape)
        h = functional.relu(torch.baddbmm(bias, everyone, weight))
        for i in range(1, len(self.shape.widths)):
            h = functional.relu(self._linear(f"embed{i}", h, chosen))
        return h

    def _linear(self, layer: str, x: Tensor, chosen: Tensor | None) -> Tensor:
        weight, bias = self._of(layer, chosen)
        return torch.bmm(x, weight) if bias is None else torch.baddbmm(bias, x, weight)

    def _of(self, layer: str, chosen: Tensor | None) -> tuple[Tensor, Tensor | None]:
        weight = self.weights[_key(f"{layer}.weight")]
        bias = self.weights.get(_key(f"{layer}.bias"))
        if chosen is not None:
            weight = weight[chosen]
            bias = bias if bias is None else bias[chosen]
        return weight, bias


def dropout_noise(
    network: StackedMil, epoch: int, bags: Sequence[int], lengths: Sequence[int]
) -> Tensor | None:
    """What dropout multiplies the embedding by: 0, or 1 / (1 - dropout).

    It depends on a network's seed, the epoch and the bag alone.

    Returns:
        (M, T, W), of one row expanded where all seeds are the same; None without dropout.
    """
    share = network.shape.dropout
    if share == 0.0 or not bags:
        return None
    device = network.mean.device
    width = network.shape.widths[-1]
    # With a share of 1 nothing is kept, and nothing is to be scaled up.
    factor = 1.0 / max(1.0 - share, torch.finfo(torch.float32).eps)
    of_seed = {}
    for seed in dict.fromkeys(network.seeds):
        drawn = []
        for bag, length in zip(bags, lengths, strict=True):
            source = torch.Generator(device).manual_seed(noise_seed(seed, epoch, bag))
            drawn.append(torch.rand((length, width), generator=source, device=device))
        of_seed[seed] = (torch.cat(drawn) >= share) * factor
    if len(of_seed) == 1:
        return of_seed[network.seeds[0]].unsqueeze(0)
    return torch.stack([of_seed[seed] for seed in network.seeds])


def _blocks(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Which tile is of which bag, bool (B, T)."""
    sizes = torch.tensor(lengths, device=device)
    of_tile = torch.arange(len(lengths), device=device).repeat_interleave(sizes)
    return of_tile.unsqueeze(0) == torch.arange(len(lengths), device=device).unsqueeze(1)


def _key(name: str) -> str:
    """A parameter's name in a `ParameterDict`, which takes no dots."""
    return name.replace(".", "_")
