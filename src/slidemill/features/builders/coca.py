"""A vision transformer of timm with a head of its own: an attention pooler, or a projection.

The attention pooler is that of CoCa (Yu et al. 2022, arXiv 2205.01917, section 3.2): a learned
query attends to all tokens of the transformer,

    out = concat_h( softmax(Q_h K_h' / sqrt(d)) V_h ) W_o,  Q = LN(query) W_q,
    K = LN(tokens) W_k,  V = LN(tokens) W_v,

and the image is LN(out). Projections are those of CLIP-like models: of the class token, by one
linear layer or two.

Arguments of a row:

- `model`, `options`: of `timm.create_model`;
- `head`: `attention`, `mlp` or `linear`;
- `heads`, `bias`: of the attention pooler;
- `unit`: whether the vector is divided by its length;
- `positions`: edge of the grid of the published position embedding, in patches, where it is
  enlarged as DINO does it; any other size is refused then.
"""

import re

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from slidemill.errors import WeightsError
from slidemill.features.network import Network, Tokens
from slidemill.features.spec import EncoderSpec

_DROPPED = re.compile(
    r"(text|text_decoder|visual\.attn_pool_caption|visual\.ln_caption)\."
    r"|visual\.proj_contrast$|logit_scale$"
)
"""What an image's vector does not pass through."""

_NAMES = (
    (r"^visual\.", ""),
    (r"^attn_pool_contrast\.attn\.([qkv])_proj_weight$", r"head.pool.\1.weight"),
    (r"^attn_pool_contrast\.attn\.out_proj\.", "head.pool.out."),
    (r"^attn_pool_contrast\.to_(q|out)\.", r"head.pool.\1."),
    (r"^attn_pool_contrast\.ln_([qk])\.", r"head.pool.norm_\1."),
    (r"^attn_pool_contrast\.query$", "head.pool.query"),
    (r"^ln_contrast\.", "head.norm."),
)
_KEEP_HEAD = {"visual_head.0.": "head.first.", "visual_head.2.": "head.second."}


class AttentionPooler(nn.Module):
    """One learned query that attends to tokens.

    Attributes:
        heads: Heads of the attention.
        query: (1, D), what is learned.
    """

    def __init__(self, width: int, context: int, heads: int, *, bias: bool) -> None:
        """Make the layers.

        Args:
            width: Length of the query and of what is pooled, D.
            context: Length of a token, C.
            heads: Heads of the attention; divides `width`.
            bias: Whether projections have one.
        """
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.randn(1, width) * width**-0.5)
        self.norm_q = nn.LayerNorm(width)
        self.norm_k = nn.LayerNorm(context)
        self.q = nn.Linear(width, width, bias=bias)
        self.k = nn.Linear(context, width, bias=bias)
        self.v = nn.Linear(context, width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool (N, T, C) tokens to (N, D)."""
        tokens = self.norm_k(tokens)
        query = self.q(self.norm_q(self.query)).expand(len(tokens), 1, -1)
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (query, self.k(tokens), self.v(tokens))
        )
        pooled = functional.scaled_dot_product_attention(q, k, v)
        found: Tensor = self.out(pooled.transpose(1, 2).flatten(2))[:, 0]
        return found


class AttentionHead(nn.Module):
    """The attention pooler and the norm after it; its input is all tokens."""

    def __init__(self, width: int, context: int, heads: int, *, bias: bool) -> None:
        super().__init__()
        self.pool = AttentionPooler(width, context, heads, bias=bias)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T, C) tokens to (N, D)."""
        found: Tensor = self.norm(self.pool(tokens))
        return found


class LinearHead(nn.Module):
    """A projection of the class token, without a bias."""

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.proj = nn.Linear(context, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T, C) tokens to (N, D)."""
        found: Tensor = self.proj(tokens[:, 0])
        return found


class MlpHead(nn.Module):
    """Two linear layers with a GELU between them, on the class token."""

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.first = nn.Linear(context, width)
        self.second = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T, C) tokens to (N, D)."""
        found: Tensor = self.second(functional.gelu(self.first(tokens[:, 0])))
        return found


class Body(nn.Module):
    """The transformer and its head, under one state dict."""

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) images to (N, D)."""
        # The tokens have passed the transformer's last norm.
        found: Tensor = self.head(self.trunk.forward_features(images))  # type: ignore[operator] # timm
        return found


class HeadedNetwork(Network):
    """A transformer with a head: one vector an image."""

    def __init__(self, body: nn.Module, width: int, *, unit: bool) -> None:
        super().__init__(body, width, 0)
        self._unit = unit

    def forward(self, images: Tensor) -> Tokens:
        """Run the network on (N, 3, H, W) float images; see `Network`."""
        pooled: Tensor = self.body(images)
        return Tokens(pooled=functional.normalize(pooled, dim=1) if self._unit else pooled)


def build(spec: EncoderSpec) -> Network:
    """A network with random weights.

    Args:
        spec: A row whose arguments are described above, and whose `width` is that of the head.
    """
    options = {"num_classes": 0, **spec.arguments.get("options", {})}
    trunk = timm.create_model(str(spec.arguments["model"]), pretrained=False, **options)
    if spec.width is None:
        raise ValueError(f"{spec.name}: the row has no width")
    context = int(trunk.num_features)
    kind = spec.arguments["head"]
    head: nn.Module
    if kind == "attention":
        heads, bias = int(spec.arguments["heads"]), bool(spec.arguments["bias"])
        head = AttentionHead(spec.width, context, heads, bias=bias)
    else:
        head = {"linear": LinearHead, "mlp": MlpHead}[str(kind)](spec.width, context)
    return HeadedNetwork(Body(trunk, head), spec.width, unit=bool(spec.arguments.get("unit")))


def convert(spec: EncoderSpec, network: Network, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict under the names of `Body`.

    Args:
        spec: The row.
        network: What `build` made of it.
        state: As published.

    Returns:
        For `network.body`; left out are the text tower, the decoder with its own pooler, the
        projection into the space of texts where a row does not use it, and the logit scale.

    Raises:
        WeightsError: If the position embedding is not of the size that the row names.
    """
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        key = key.removeprefix("module.")
        if not _DROPPED.match(key):
            converted.update(_renamed(key, value, str(spec.arguments["head"])))
    edge = spec.arguments.get("positions")
    if edge is not None and "trunk.pos_embed" in converted:
        wanted = int(network.body.trunk.patch_embed.grid_size[0])  # type: ignore[union-attr,index] # timm
        converted["trunk.pos_embed"] = enlarge(converted["trunk.pos_embed"], int(edge), wanted)
    return converted


def enlarge(positions: Tensor, edge: int, wanted: int) -> Tensor:
    """Enlarge a position embedding as DINO (Caron et al. 2021) does it.

    Bicubic, by the factor (wanted + 0.1) / edge rather than by the exact one: that is what
    networks saw that were trained so.

    Args:
        positions: (1, 1 + edge^2, D), the class token's first.
        edge: Of its grid, in patches.
        wanted: Of the grid that is needed.

    Returns:
        (1, 1 + wanted^2, D) float32.

    Raises:
        WeightsError: If it has another size.
    """
    if positions.ndim != 3 or positions.shape[1] != 1 + edge**2:
        raise WeightsError(
            f"the position embedding is of shape {tuple(positions.shape)}, not of a grid of "
            f"{edge} x {edge} patches and a class token: these are not the weights of this model."
        )
    grid = positions[:, 1:].float().reshape(1, edge, edge, -1).permute(0, 3, 1, 2)
    scale = (wanted + 0.1) / edge
    larger = functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    patches = larger.permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat([positions[:, :1].float(), patches], dim=1)


def _renamed(key: str, value: Tensor, head: str) -> dict[str, Tensor]:
    """One published tensor under our names; a packed one becomes several."""
    if head == "mlp":
        for old, new in _KEEP_HEAD.items():
            if key.startswith(old):
                return {key.replace(old, new): value}
        # There, layer scales are called `weight`.
        key = re.sub(r"\.(ls[12])\.weight$", r".\1.gamma", key)
        return {re.sub(r"^visual\.", "trunk.", key): value}
    name = key
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    if name == "attn_pool_contrast.attn.in_proj_bias":
        return {
            f"head.pool.{letter}.bias": part
            for letter, part in zip("qkv", value.chunk(3), strict=True)
        }
    if name == "attn_pool_contrast.to_kv.weight":
        k, v = value.chunk(2)
        return {"head.pool.k.weight": k, "head.pool.v.weight": v}
    return {name: value}
