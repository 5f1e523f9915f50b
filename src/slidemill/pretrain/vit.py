"""A ViT over tiles: pre-norm transformer blocks with exact attention, the default slide encoder.

Nothing is read or written. Dosovitskiy et al. 2021 (arXiv:2010.11929) with tiles for patches.
"""

from typing import ClassVar

from torch import Tensor, nn

from slidemill.pretrain.attention import attend
from slidemill.pretrain.encoder import (
    POSITION_BASE,
    POSITION_SCALE,
    PositionUse,
    SlideEncoder,
    align_keys,
    init_linear,
    queries_keys_values,
)
from slidemill.pretrain.packing import Sequences


class Block(nn.Module):
    """A pre-norm transformer block: softmax attention, then a GELU MLP four times as wide."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Tensor, sequences: Sequences, places: Tensor | None) -> Tensor:
        """Map tokens (T, width) to tokens (T, width); sequences do not see each other."""
        query, key, value = queries_keys_values(
            self.query_key_value, self.attention_norm(tokens), places, self.heads
        )
        tokens = tokens + self.project(attend(query, key, value, sequences).flatten(1))
        return tokens + self.mlp(self.mlp_norm(tokens))  # type: ignore[no-any-return]


class SlideTransformer(SlideEncoder):
    """A transformer with exact attention from bags of tile features to slide embeddings.

    Tokens are LayerNorm(Linear((features - feature_mean) / feature_std)), after a learnt class
    token; the final LayerNorm follows the last block. Positions enter where `position_use` says.

    Args:
        dim: Width D of the tile features.
        width: Width of the transformer and of the embedding, a multiple of 4 x heads.
        depth: Number of blocks.
        heads: Attention heads.
        position_base: Longest wave of the position code, in units of 2 pi cells.
        position_scale: What the position code is multiplied by.
        position_use: Where positions enter.
    """

    kind: ClassVar[str] = "exact"

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
        super().__init__(
            dim,
            width,
            depth,
            heads,
            position_base=position_base,
            position_scale=position_scale,
            position_use=position_use,
        )
        self.embed = nn.Linear(dim, width)
        self.embed_norm = nn.LayerNorm(width)
        blocks = [Block(width, heads) for _ in range(depth)]
        self.layers = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)
        init_linear(self)
        for block in blocks:
            align_keys(block.query_key_value)

    def embed_tiles(self, features: Tensor) -> Tensor:
        """Tokens of tiles before positions are added: (T, D) to (T, width)."""
        standard = (features.float() - self.feature_mean) / self.feature_std
        return self.embed_norm(self.embed(standard))  # type: ignore[no-any-return]

    def blocks(self) -> nn.ModuleList:
        """The blocks."""
        return self.layers

    def last_norm(self, tokens: Tensor) -> Tensor:
        """The final LayerNorm."""
        return self.norm(tokens)  # type: ignore[no-any-return]

    def layer_norm(self, tokens: Tensor) -> Tensor:
        """The final LayerNorm: layers are read through the norm that the last one has."""
        return self.norm(tokens)  # type: ignore[no-any-return]
