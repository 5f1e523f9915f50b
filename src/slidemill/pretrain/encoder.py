"""What every slide encoder is: a network from bags of tile features to slide embeddings.

`SlideEncoder` is what training, embedding and checkpoints ask of one; `vit` and `longnet` are the
two there are. All work on packed bags, so that a bag alone and the same bag in a batch give the
same. What the features were standardised by is part of the encoder: a checkpoint is all that is
needed to use it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from slidemill.pretrain.bags import Float32Array
from slidemill.pretrain.packing import Packed
from slidemill.pretrain.positions import positions_2d

PositionUse = Literal["attention", "input"]
"""Where positions enter. attention: queries and keys of every block, as in Carion et al. 2020
(arXiv:2005.12872), so that they say which tiles lie near and are no part of what a token tells.
input: tokens before the first block."""

POSITION_BASE, POSITION_SCALE = 10.0, 2.0
"""The position code of encoders that are trained here: waves of 6 to 63 cells, of twice the size.
Tissue is told from its neighbourhood: with the 10,000 that words have, most channels hardly change
over a slide, and attention to neighbours is learnt many times more slowly, if at all."""

ALIKE = 0.9
"""Share of the queries' weights in the keys' at the start."""

_SIZES = ("dim", "width", "depth", "heads")
_POSITIONS = ("position_base", "position_scale", "position_use")


class Encoded(NamedTuple):
    """What an encoder makes of a packed batch of B bags with T tiles.

    Attributes:
        cls: (B, width), the class tokens: the slide embeddings.
        tokens: (T, width), the tiles' tokens, in the order of the batch.
        layers: (depth + 1, B, width), the class tokens of the embedding and after every block,
            each through the last norm; empty (0, B, width) unless asked for.
    """

    cls: Tensor
    tokens: Tensor
    layers: Tensor


class SlideEncoder(nn.Module, ABC):
    """A network from packed bags of tile features to slide embeddings.

    Args:
        dim: Width D of the tile features.
        width: Width of the tokens and of the embedding.
        depth: Number of blocks.
        heads: Attention heads.
        position_base: Longest wave of the position code, in units of 2 pi cells.
        position_scale: What the position code is multiplied by.
        position_use: Where positions enter.

    Attributes:
        kind: Value of the configuration's `attention`.
        feature_mean: float32 (D,) buffer, 0 until `set_moments`.
        feature_std: float32 (D,) buffer, 1 until `set_moments`.
        class_token: float32 (width,).
        mask_token: float32 (width,), what stands for a tile that is hidden from the student.
        checkpointing: Whether the backward pass computes each block's activations again, so that
            memory holds those of one block instead of all.

    Raises:
        ValueError: If the width is not a multiple of 4 x heads.
    """

    kind: ClassVar[str]
    feature_mean: Tensor
    feature_std: Tensor

    def __init__(
        self,
        dim: int,
        width: int,
        depth: int,
        heads: int,
        *,
        position_base: float = POSITION_BASE,
        position_scale: float = POSITION_SCALE,
        position_use: PositionUse = "attention",
    ) -> None:
        super().__init__()
        if width % (4 * heads):
            raise ValueError(f"width {width} is not a multiple of 4 x {heads} heads")
        self.dim, self.width, self.depth, self.heads = dim, width, depth, heads
        self.position_base, self.position_scale = position_base, position_scale
        self.position_use = position_use
        self.checkpointing = False
        self.register_buffer("feature_mean", torch.zeros(dim))
        self.register_buffer("feature_std", torch.ones(dim))
        # Not 0: a LayerNorm's slope at a constant input is 1 / sqrt(eps), some 300 times that of
        # the other tokens, and clipping the gradient would then starve every other parameter.
        self.class_token = nn.Parameter(nn.init.normal_(torch.empty(width), std=0.02))
        self.mask_token = nn.Parameter(nn.init.normal_(torch.empty(width), std=0.02))

    def set_moments(self, mean: Float32Array, std: Float32Array) -> None:
        """Set what features are standardised by: mean and deviation, float32 (D,) each."""
        self.feature_mean.copy_(torch.from_numpy(mean))
        self.feature_std.copy_(torch.from_numpy(std))

    def encode(
        self, bags: Packed, hidden: Tensor | None = None, *, layers: bool = False
    ) -> Encoded:
        """Encode a packed batch.

        Args:
            bags: The batch. Where in the grid a bag begins matters little: training shifts crops
                by up to `crops.MAX_SHIFT` cells, so that positions of 0 on are as good as any.
            hidden: bool (T,), tiles whose features are replaced by the mask token; their positions
                stay. None for none.
            layers: Whether to give the class tokens of all layers too.

        Returns:
            Class tokens and tile tokens after the last norm.
        """
        embedded = self.embed_tiles(bags.features)
        # Blocks add to tokens: in the bfloat16 that autocast may give, small sums would be lost.
        embedded = embedded.to(torch.promote_types(embedded.dtype, torch.float32))
        if hidden is not None:
            embedded = torch.where(hidden[:, None], self.mask_token.to(embedded.dtype), embedded)
        places = self.position_scale * positions_2d(bags.positions, self.width, self.position_base)
        sequences = bags.sequences.with_class_token()
        first = sequences.offsets[:-1].long()
        tiles = torch.arange(bags.sequences.total, device=first.device) + bags.sequences.owner + 1
        within: Tensor | None = None
        if self.position_use == "input":
            embedded = embedded + places
        else:
            # Class tokens are nowhere: their code is 0.
            within = places.new_zeros((sequences.total, self.width)).index_copy(0, tiles, places)
        tokens = embedded.new_empty((sequences.total, self.width)).index_copy(0, tiles, embedded)
        classes = self.class_token.to(embedded.dtype).expand(len(sequences), -1)
        tokens = tokens.index_copy(0, first, classes)
        kept = [tokens[first]]
        for block in self.blocks():
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(
                    block, tokens, sequences, within, use_reentrant=False, preserve_rng_state=False
                )
            else:
                tokens = block(tokens, sequences, within)
            if layers:
                kept.append(tokens[first])
        final = self.last_norm(tokens)
        shown = final.new_empty((0, len(first), self.width))
        if layers:
            shown = torch.stack([self.layer_norm(one) for one in kept])
        return Encoded(final[first], final[tiles], shown)

    @abstractmethod
    def embed_tiles(self, features: Tensor) -> Tensor:
        """Tokens of tiles before positions are added: (T, D) to (T, width)."""

    @abstractmethod
    def blocks(self) -> nn.ModuleList:
        """The blocks; each maps tokens (T, width), their `Sequences` and position codes to tokens.

        Codes are (T, width), or None where positions entered before.
        """

    @abstractmethod
    def last_norm(self, tokens: Tensor) -> Tensor:
        """What follows the last block."""

    @abstractmethod
    def layer_norm(self, tokens: Tensor) -> Tensor:
        """The norm through which the tokens of one layer are read."""

    @classmethod
    def from_sizes(cls, sizes: Mapping[str, str]) -> Self:
        """A network of the sizes that a checkpoint names, with weights still to be loaded.

        Raises:
            KeyError: If a size is missing.
            ValueError: If one is not a number, or they do not fit.
        """
        return cls(
            *(int(sizes[key]) for key in _SIZES),
            position_base=float(sizes["position_base"]),
            position_scale=float(sizes["position_scale"]),
            position_use=position_use(sizes["position_use"]),
        )

    def sizes(self) -> dict[str, str]:
        """What a checkpoint has to say for the same network to be made again."""
        return {key: str(getattr(self, key)) for key in (*_SIZES, *_POSITIONS)}


def init_linear(module: nn.Module) -> None:
    """Draw all linear weights by Glorot & Bengio (2010), uniform, and set their biases to 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)


def align_keys(query_key_value: nn.Linear) -> None:
    """Make the keys' weights nearly those of the queries, as they become in trained networks.

    A fresh encoder then attends to what is alike, in place above all, so that its tokens tell of
    their surroundings from the start (Trockman & Kolter 2023, arXiv:2305.09828, with another way to
    the same product of weights).
    """
    with torch.no_grad():
        query, key, _ = query_key_value.weight.chunk(3)
        key.lerp_(query, ALIKE)


def queries_keys_values(
    linear: nn.Linear, tokens: Tensor, places: Tensor | None, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of attention, (T, heads, d) each.

    Args:
        linear: Maps tokens to all three, one after the other.
        tokens: (T, width), normalised.
        places: Position codes (T, width), which queries and keys get and values do not; or None.
        heads: Attention heads.
    """
    if places is None:
        query, key, value = linear(tokens).unflatten(-1, (3, heads, -1)).unbind(1)
        return query, key, value
    split = 2 * tokens.shape[-1]
    weight, bias = linear.weight, linear.bias
    placed = functional.linear(tokens + places.to(tokens.dtype), weight[:split], bias[:split])
    query, key = placed.unflatten(-1, (2, heads, -1)).unbind(1)
    value = functional.linear(tokens, weight[split:], bias[split:])
    return query, key, value.unflatten(-1, (heads, -1))


def position_use(text: str) -> PositionUse:
    """Read what `sizes` writes.

    Raises:
        ValueError: If it is nothing of that.
    """
    if text == "attention":
        return "attention"
    if text == "input":
        return "input"
    raise ValueError(f"positions are used in attention or in the input, not in {text!r}")


def autocast(device: str | torch.device, bf16: bool) -> torch.autocast:
    """Bfloat16 where matrices are multiplied, or plain float32."""
    kind = torch.device(device).type
    return torch.autocast(device_type=kind, dtype=torch.bfloat16, enabled=bf16)


def wants_bf16(precision: Literal["auto", "fp32", "bf16"], device: str | torch.device) -> bool:
    """Whether an encoder computes in bfloat16: `auto` does on CUDA."""
    return precision == "bf16" or (precision == "auto" and torch.device(device).type == "cuda")
