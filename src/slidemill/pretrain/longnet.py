"""LongNet over tiles: a slide encoder whose attention is dilated, for very many tiles.

Nothing is read or written. Blocks are those of Ding et al. 2023 (arXiv:2307.02486) with the inner
norms of Wang et al. 2022 (arXiv:2210.06423), as the GigaPath slide encoder (Xu et al. 2024,
10.1038/s41586-024-07441-w) has them, whose public weights `LongNet.from_gigapath` takes. Unlike
exact attention, dilated attention depends on the order of the tiles.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from slidemill.errors import WeightsError
from slidemill.pretrain import gigapath
from slidemill.pretrain.dilated import Dilation, attend_dilated
from slidemill.pretrain.encoder import (
    POSITION_BASE,
    POSITION_SCALE,
    Encoded,
    PositionUse,
    SlideEncoder,
    align_keys,
    init_linear,
    position_use,
    queries_keys_values,
)
from slidemill.pretrain.packing import Packed, Sequences
from slidemill.pretrain.positions import tile_grid

log = logging.getLogger(__name__)

SEGMENTS = (1024, 2048, 4096, 8192, 16384)
RATIOS = (1, 2, 4, 8, 16)


class DilatedBlock(nn.Module):
    """A pre-norm block: dilated attention, then a GELU MLP, each with a norm before its output."""

    def __init__(self, width: int, heads: int, dilation: Dilation) -> None:
        super().__init__()
        self.heads = heads
        self.dilation = dilation
        self.attention_norm = nn.LayerNorm(width, eps=1e-5)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.mixed_norm = nn.LayerNorm(width, eps=1e-5)
        self.project = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width, eps=1e-5)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.LayerNorm(4 * width, eps=1e-5),
            nn.Linear(4 * width, width),
        )

    def forward(self, tokens: Tensor, sequences: Sequences, places: Tensor | None) -> Tensor:
        """Map tokens (T, width) to tokens (T, width); sequences do not see each other."""
        query, key, value = queries_keys_values(
            self.query_key_value, self.attention_norm(tokens), places, self.heads
        )
        attended = attend_dilated(query, key, value, sequences, self.dilation)
        tokens = tokens + self.project(self.mixed_norm(attended.flatten(1)))
        return tokens + self.mlp(self.mlp_norm(tokens))  # type: ignore[no-any-return]


class LongNet(SlideEncoder):
    """A transformer with dilated attention from bags of tile features to slide embeddings.

    Tokens are Linear((features - feature_mean) / feature_std) + positions, after a learnt class
    token. A LayerNorm (eps 1e-5) and another (eps 1e-6) follow the last block; tokens of single
    layers are read through the second alone.

    Args:
        dim: Width D of the tile features.
        width: Width of the transformer and of the embedding, a multiple of 4 x heads.
        depth: Number of blocks.
        heads: Attention heads.
        segments: Segment of each branch of dilated attention, tokens.
        ratios: Ratio of each branch.
        padding_keys: Whether padding takes part in attention, as in GigaPath; see `Dilation`.
        tile_size: Edge of a tile, pixels, if the network is to be called with coordinates.
        rows_first: Whether the first half of the position code is of y and the second of x, as in
            GigaPath, and not the other way round.
        grid_size: Columns and rows of the grid that the weights were trained on; a call with tiles
            beyond it is answered, and logged. None for no such limit.
        position_base: Longest wave of the position code, in units of 2 pi cells.
        position_scale: What the position code is multiplied by.
        position_use: Where positions enter.

    Raises:
        ValueError: If the width is not a multiple of 4 x heads, or segments and ratios do not
            belong together.
    """

    kind: ClassVar[str] = "longnet"

    def __init__(
        self,
        dim: int,
        width: int,
        depth: int,
        heads: int,
        *,
        segments: Sequence[int] = SEGMENTS,
        ratios: Sequence[int] = RATIOS,
        padding_keys: bool = False,
        tile_size: int | None = None,
        rows_first: bool = False,
        grid_size: int | None = None,
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
        self.dilation = Dilation(tuple(segments), tuple(ratios), padding_keys)
        self.tile_size, self.rows_first, self.grid_size = tile_size, rows_first, grid_size
        self.embed = nn.Linear(dim, width)
        blocks = [DilatedBlock(width, heads, self.dilation) for _ in range(depth)]
        self.layers = nn.ModuleList(blocks)
        self.final_norm = nn.LayerNorm(width, eps=1e-5)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        init_linear(self)
        for block in blocks:
            align_keys(block.query_key_value)

    @classmethod
    def from_gigapath(
        cls,
        state_dict: Mapping[str, Tensor],
        tile_size: int = 256,
        slide_ngrids: int = 1000,
        max_wsi_size: int = 262144,
    ) -> Self:
        """The GigaPath slide encoder with given weights.

        Width, depth and feature width are read off the weights; heads are 16, as in all its
        published sizes. Features are not standardised. The weights have no mask token: it is 0.

        Args:
            state_dict: Weights by the names of the published checkpoint (its entry `model`).
            tile_size: Edge of a tile, pixels.
            slide_ngrids: Columns and rows of its position table. There is no table here: tiles
                beyond it get the same closed form, and the log says so.
            max_wsi_size: Largest slide, pixels. It sets the segments of dilated attention, so that
                another value is another network on the same weights.

        Raises:
            WeightsError: If a weight is missing, unknown or of another shape; all are named.
            ValueError: If the width is not a multiple of 64, or a slide holds not even one tile.
        """
        weights = gigapath.translate(state_dict)
        width, dim = weights["embed.weight"].shape
        depth = sum(name.endswith("query_key_value.weight") for name in weights)
        with torch.device("meta"):  # nothing is drawn: all weights are given
            encoder = cls(
                dim,
                width,
                depth,
                gigapath.HEADS,
                segments=gigapath.segment_lengths(tile_size, max_wsi_size),
                ratios=RATIOS,
                padding_keys=True,
                tile_size=tile_size,
                rows_first=True,
                grid_size=slide_ngrids,
                position_base=10000.0,
                position_scale=1.0,
                position_use="input",
            )
        weights["feature_mean"] = torch.zeros(dim)
        weights["feature_std"] = torch.ones(dim)
        weights["mask_token"] = torch.zeros(width)
        encoder.load_state_dict(weights, assign=True)
        return encoder

    @classmethod
    def from_sizes(cls, sizes: Mapping[str, str]) -> Self:
        """The network that `sizes` describes, with weights still to be loaded.

        Raises:
            WeightsError: If an entry is missing or is not what `sizes` writes.
        """
        try:
            return cls(
                *(int(sizes[key]) for key in ("dim", "width", "depth", "heads")),
                segments=[int(part) for part in sizes["segments"].split(",")],
                ratios=[int(part) for part in sizes["ratios"].split(",")],
                padding_keys=_truth(sizes["padding_keys"]),
                tile_size=_whole(sizes["tile_size"]),
                rows_first=_truth(sizes["rows_first"]),
                grid_size=_whole(sizes["grid_size"]),
                position_base=float(sizes["position_base"]),
                position_scale=float(sizes["position_scale"]),
                position_use=position_use(sizes["position_use"]),
            )
        except (KeyError, ValueError) as error:
            raise WeightsError(
                f"sizes of a longnet checkpoint: {error!r}. The file is damaged or of another "
                "version of slidemill: train it again, or use that version."
            ) from error

    def sizes(self) -> dict[str, str]:
        """What a checkpoint has to say for the same network to be made again."""
        return super().sizes() | {
            "segments": ",".join(map(str, self.dilation.segments)),
            "ratios": ",".join(map(str, self.dilation.ratios)),
            "padding_keys": str(self.dilation.padding_keys),
            "tile_size": str(self.tile_size),
            "rows_first": str(self.rows_first),
            "grid_size": str(self.grid_size),
        }

    def forward(self, features: Tensor, coords: Tensor, all_layers: bool = False) -> Tensor:
        """Embed one slide.

        Args:
            features: float32 or float16 (N, dim), in the order that attention is dilated over.
            coords: Integer (N, 2), top-left corners (x, y), pixels of the level of tile_size.
            all_layers: Whether to give the class tokens of all layers.

        Returns:
            (width,), the class token after the last norm; or (depth + 1, width), those of the
            embedding and after every block, through the norm that follows the last block's.

        Raises:
            ValueError: If the encoder has no tile size, coords are not integers, one is negative,
                there is no tile, features are not finite, or the shapes do not belong together.
        """
        bag = self._placed(features, coords)
        encoded = self.encode(bag, layers=all_layers)
        return encoded.layers[:, 0] if all_layers else encoded.cls[0]

    def _placed(self, features: Tensor, coords: Tensor) -> Packed:
        """One slide's tiles as a packed batch; raises as `forward` does."""
        if self.tile_size is None:
            raise ValueError("the encoder has no tile_size: encode() takes positions instead")
        if features.shape != (len(coords), self.dim) or coords.shape != (len(features), 2):
            raise ValueError(
                f"features {tuple(features.shape)} and coords {tuple(coords.shape)}, "
                f"not (N, {self.dim}) and (N, 2)"
            )
        sequences = Sequences.of([len(features)], features.device)
        spoilt = int((~features.isfinite()).any(dim=1).sum())
        if spoilt:
            raise ValueError(f"features of {spoilt} of {len(features)} tiles are not finite")
        grid = tile_grid(coords, self.tile_size)
        farthest = int(grid.max())
        if self.grid_size is not None and farthest >= self.grid_size:
            log.warning(
                "tiles up to column or row %d, beyond the %d that the encoder's weights know; "
                "their positions are computed by the same formula",
                farthest,
                self.grid_size,
            )
        return Packed(features, grid, sequences)

    def encode(
        self, bags: Packed, hidden: Tensor | None = None, *, layers: bool = False
    ) -> Encoded:
        """Encode a packed batch; see `SlideEncoder.encode`."""
        if self.rows_first:
            bags = Packed(bags.features, bags.positions.flip(-1), bags.sequences)
        return super().encode(bags, hidden, layers=layers)

    def embed_tiles(self, features: Tensor) -> Tensor:
        """Tokens of tiles before positions are added: (T, D) to (T, width)."""
        standard = (features.float() - self.feature_mean) / self.feature_std
        return self.embed(standard)  # type: ignore[no-any-return]

    def blocks(self) -> nn.ModuleList:
        """The blocks."""
        return self.layers

    def last_norm(self, tokens: Tensor) -> Tensor:
        """Both final LayerNorms, one after the other."""
        return self.norm(self.final_norm(tokens))  # type: ignore[no-any-return]

    def layer_norm(self, tokens: Tensor) -> Tensor:
        """The second of the final LayerNorms."""
        return self.norm(tokens)  # type: ignore[no-any-return]


def _truth(text: str) -> bool:
    if text not in ("True", "False"):
        raise ValueError(f"{text} is neither True nor False")
    return text == "True"


def _whole(text: str) -> int | None:
    return None if text == "None" else int(text)
