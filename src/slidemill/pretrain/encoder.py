"""The slide encoder: a transformer over the tile features of one slide.

It turns a bag (features and grid positions of any number of tiles) into one vector, the class
token's. Attention is exact. Padding changes nothing: padded tiles are never attended to. What the
features were standardised by is part of the encoder, so a checkpoint is all that is needed to use
it, and it loads only into the architecture it names.
"""

from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from slidemill.errors import SlideCode, SlideError, WeightsError
from slidemill.pretrain.bags import Float32Array, Int64Array
from slidemill.pretrain.crops import rebase

CHECKPOINT_VERSION = "1"
"""Version of the checkpoint's keys and meaning."""

_SIZES = ("dim", "width", "depth", "heads")


def positions_2d(positions: Tensor, width: int) -> Tensor:
    """Sine-cosine code of grid positions (Vaswani et al. 2017, arXiv:1706.03762), for two axes.

    The first half of the channels encodes x, the second y; each half is sin(p w_k) for all k, then
    cos(p w_k), with w_k = 10000^(-4k / width), k from 0 to width / 4 - 1. Computed in float32
    whatever autocast says, and for each token: there is no table to outgrow.

    Args:
        positions: Integer (..., 2), column and row.
        width: Channels of the code, a multiple of 4.

    Returns:
        float32 (..., width).

    Raises:
        ValueError: If the positions are not integers or the width is not a multiple of 4.
    """
    if positions.is_floating_point():
        raise ValueError(f"grid positions are integers, not {positions.dtype}")
    if width % 4:
        raise ValueError(f"the width of a position code is a multiple of 4, not {width}")
    rates = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    with torch.autocast(device_type=positions.device.type, enabled=False):
        rate = torch.from_numpy(rates.astype(np.float32)).to(positions.device)
        angle = positions.to(torch.float32).unsqueeze(-1) * rate
        return torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(-2)


class Block(nn.Module):
    """A pre-norm transformer block: softmax attention, then a GELU MLP four times as wide."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Tensor, mask: Tensor | None, outputs: int | None = None) -> Tensor:
        """Map tokens to tokens.

        Args:
            tokens: (B, T, width).
            mask: bool (B, 1, 1, T), True where a token may be attended to; None for all.
            outputs: How many of the first tokens are wanted; None for all.

        Returns:
            (B, outputs, width).
        """
        batch, length, _ = tokens.shape
        normal = self.attention_norm(tokens)
        query = self.query(normal[:, :outputs]).unflatten(-1, (self.heads, -1))
        key, value = self.key_value(normal).view(batch, length, 2, self.heads, -1).unbind(2)
        mixed = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask
        )
        tokens = tokens[:, :outputs] + self.project(mixed.transpose(1, 2).flatten(2))
        return tokens + self.mlp(self.mlp_norm(tokens))  # type: ignore[no-any-return]


class SlideTransformer(nn.Module):
    """A transformer from bags of tile features to slide embeddings.

    Tokens are LayerNorm(Linear((features - feature_mean) / feature_std)) + `positions_2d`, after a
    learnt class token; the final LayerNorm follows the last block.

    Args:
        dim: Width D of the tile features.
        width: Width of the transformer and of the embedding, a multiple of 4 x heads.
        depth: Number of blocks.
        heads: Attention heads.

    Attributes:
        feature_mean: float32 (D,) buffer, 0 until `set_moments`.
        feature_std: float32 (D,) buffer, 1 until `set_moments`.

    Raises:
        ValueError: If the width is not a multiple of 4 x heads.
    """

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, dim: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        if width % (4 * heads):
            raise ValueError(f"width {width} is not a multiple of 4 x {heads} heads")
        self.dim, self.width, self.depth, self.heads = dim, width, depth, heads
        self.register_buffer("feature_mean", torch.zeros(dim))
        self.register_buffer("feature_std", torch.ones(dim))
        self.embed = nn.Linear(dim, width)
        self.embed_norm = nn.LayerNorm(width)
        # Not 0: a LayerNorm's slope at a constant input is 1 / sqrt(eps), some 300 times that of
        # the other tokens, and clipping the gradient would then starve every other parameter.
        self.class_token = nn.Parameter(nn.init.normal_(torch.empty(width), std=0.02))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        init_linear(self)

    def set_moments(self, mean: Float32Array, std: Float32Array) -> None:
        """Set what features are standardised by: mean and deviation, float32 (D,) each."""
        self.feature_mean.copy_(torch.from_numpy(mean))
        self.feature_std.copy_(torch.from_numpy(std))

    def tokens(
        self,
        features: Tensor,
        positions: Tensor,
        valid: Tensor | None = None,
        outputs: int | None = None,
    ) -> Tensor:
        """Output tokens, the class token first: all, (B, 1 + L, width), or the first `outputs`.

        Other arguments are those of `forward`. The last block computes only what is wanted.
        """
        standard = (features - self.feature_mean) / self.feature_std
        tokens = self.embed_norm(self.embed(standard)) + positions_2d(positions, self.width)
        batch = len(tokens)
        tokens = torch.cat([self.class_token.expand(batch, 1, -1), tokens], dim=1)
        mask = None if valid is None else functional.pad(valid, (1, 0), value=True)[:, None, None]
        for block in self.blocks[:-1]:
            tokens = block(tokens, mask)
        return self.norm(self.blocks[-1](tokens, mask, outputs))  # type: ignore[no-any-return]

    def forward(self, features: Tensor, positions: Tensor, valid: Tensor | None = None) -> Tensor:
        """Embed a padded batch of bags.

        Args:
            features: float32 (B, L, D), finite also where it is padding.
            positions: int64 (B, L, 2), column and row in the grid, starting at 0 as in training.
            valid: bool (B, L), False where it is padding; None where there is none.

        Returns:
            (B, width), the class tokens.
        """
        return self.tokens(features, positions, valid, outputs=1)[:, 0]

    def state_for_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Everything a checkpoint holds.

        Returns:
            Tensors by name, contiguous, on the CPU and not shared with the encoder; and text with
            `version`, `dim`, `width`, `depth` and `heads`. Fit for safetensors.
        """
        state = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in self.state_dict().items()
        }
        return state, {
            "version": CHECKPOINT_VERSION,
            **{key: str(getattr(self, key)) for key in _SIZES},
        }

    @classmethod
    def from_state(cls, state: dict[str, Tensor], meta: dict[str, str]) -> Self:
        """Make an encoder of what `state_for_checkpoint` gave; draws no random numbers.

        Args:
            state: Tensors by name.
            meta: Text with the version and the sizes.

        Returns:
            The encoder, on the CPU, in eval mode.

        Raises:
            WeightsError: If the version is not known, a size is missing or wrong, or a tensor is
                missing, unexpected or of another shape.
        """
        if meta.get("version") != CHECKPOINT_VERSION:
            raise WeightsError(
                f"this checkpoint of a slide encoder has version {meta.get('version')!r}, but only "
                f"{CHECKPOINT_VERSION!r} is known. Train it again or update slidemill."
            )
        try:
            sizes = {key: int(meta[key]) for key in _SIZES}
            with torch.device("meta"):
                encoder = cls(**sizes)
            encoder.to_empty(device="cpu").load_state_dict(state, strict=True)
        except (KeyError, ValueError, RuntimeError) as error:
            raise WeightsError(
                f"this checkpoint does not fit the slide encoder that it describes: {error}. "
                "The file is damaged or was altered: train the slide encoder again."
            ) from None
        return encoder.eval()


def init_linear(module: nn.Module) -> None:
    """Draw all linear weights by Glorot & Bengio (2010), uniform, and set their biases to 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)


def embed(
    encoder: SlideTransformer, features: Float32Array, positions: Int64Array, device: str
) -> Float32Array:
    """Embed one whole slide, all tiles at once.

    Positions are shifted to start at 0, as they do in training. Arithmetic is float32, on CUDA
    bfloat16 under autocast as in training. Memory grows with the tiles, not with their square.

    Args:
        encoder: The slide encoder; it is moved to the device.
        features: float32 (N, D).
        positions: int64 (N, 2), column and row in the slide's grid.
        device: Where to compute: `cpu`, `cuda` or `mps`.

    Returns:
        float32 (width,).

    Raises:
        SlideError: If the slide has no tiles.
        WeightsError: If the features are not of the width that the encoder was trained on.
    """
    if len(features) == 0:
        raise SlideError(SlideCode.NO_TILES, "no tiles to embed. Lower tiles.min_tissue")
    if features.ndim != 2 or features.shape[1] != encoder.dim:
        raise WeightsError(
            f"the slide encoder takes tile features of width {encoder.dim}, not "
            f"{features.shape}. Use the tile encoder that it was trained on."
        )
    encoder.to(device).eval()
    tiles = torch.from_numpy(np.asarray(features, dtype=np.float32)).to(device)
    grid = torch.from_numpy(rebase(positions)).to(device)
    with torch.inference_mode(), autocast(device):
        return encoder(tiles[None], grid[None])[0].float().cpu().numpy()  # type: ignore[no-any-return]


def autocast(device: str) -> torch.autocast:
    """Bfloat16 where matrices are multiplied on CUDA; plain float32 on any other device."""
    kind = torch.device(device).type
    return torch.autocast(device_type=kind, dtype=torch.bfloat16, enabled=kind == "cuda")
