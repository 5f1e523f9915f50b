"""The vision branch of BEiT-3, a multiway transformer with sub-layer norms.

BEiT-3 (Wang et al. 2022, arXiv 2208.10442) has one set of weights for images and one for texts in
each layer; images pass through theirs alone, so that the branch is a plain transformer. Layers are
those of Magneto (Wang et al. 2022, arXiv 2210.06423): a second norm inside each half,

    x = x + W_o LN( softmax(Q K' / sqrt(d)) V ),  [Q K V] = LN(x) [W_q W_k W_v]
    x = x + W_2 LN( GELU( W_1 LN(x) ) )

Arguments of a row: `image_px`, `patch_px`, `width`, `layers`, `heads` and `hidden`.
"""

import re

import torch
from torch import Tensor, nn
from torch.nn import functional

from slidemill.features.network import Network, Tokens
from slidemill.features.spec import EncoderSpec

_UNUSED_POSITIONS = 2
"""Rows at the beginning of the table of positions that no token has: they were kept for padding."""

_DROPPED = re.compile(
    r"(text_embed|vision_head|language_head)\."
    r"|(vision_embed\.mask_token|logit_scale)$"
    r"|encoder\.(.+\.)?B\."
)
"""Names of the text branch, of heads that images do not pass through, and of training."""


class Attention(nn.Module):
    """Self-attention with a norm before its last projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.inner_attn_ln = nn.LayerNorm(width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T, D) to (N, T, D)."""
        q, k, v = (
            projection(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        found: Tensor = self.out_proj(self.inner_attn_ln(mixed))
        return found


class FeedForward(nn.Module):
    """Two linear layers with a GELU and a norm between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.ffn_layernorm = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T, D) to (N, T, D)."""
        found: Tensor = self.fc2(self.ffn_layernorm(functional.gelu(self.fc1(tokens))))
        return found


class Layer(nn.Module):
    """Attention and feed-forward, each on normed tokens and added to them."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.self_attn = Attention(width, heads)
        self.final_layer_norm = nn.LayerNorm(width)
        self.ffn = FeedForward(width, hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T, D) to (N, T, D)."""
        tokens = tokens + self.self_attn(self.self_attn_layer_norm(tokens))
        found: Tensor = tokens + self.ffn(self.final_layer_norm(tokens))
        return found


class VisionBranch(nn.Module):
    """Images to tokens.

    Attributes:
        patch_px: Edge of a patch.
    """

    def __init__(
        self, image_px: int, patch_px: int, width: int, layers: int, heads: int, hidden: int
    ) -> None:
        """Make the layers.

        Args:
            image_px: Edge of the images.
            patch_px: Edge of a patch.
            width: Length of a token, D.
            layers: How many there are.
            heads: Heads of the attention.
            hidden: Width inside the feed-forward half.
        """
        super().__init__()
        self.patch_px = patch_px
        tokens = (image_px // patch_px) ** 2 + 1
        self.proj = nn.Conv2d(3, width, patch_px, stride=patch_px)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(tokens + _UNUSED_POSITIONS, width) * 0.02)
        self.layers = nn.ModuleList(Layer(width, heads, hidden) for _ in range(layers))
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) images to (N, 1 + patches, D) tokens."""
        patches = self.proj(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1)
        tokens = tokens + self.positions[_UNUSED_POSITIONS:]
        for layer in self.layers:
            tokens = layer(tokens)
        found: Tensor = self.layer_norm(tokens)
        return found


class Beit3Network(Network):
    """The branch, its tokens told apart."""

    def __init__(self, body: VisionBranch, width: int) -> None:
        super().__init__(body, width, 1)
        self._patch_px = body.patch_px

    def forward(self, images: Tensor) -> Tokens:
        """Run the network on (N, 3, H, W) float images; see `Network`."""
        tokens: Tensor = self.body(images)
        rows, columns = images.shape[2] // self._patch_px, images.shape[3] // self._patch_px
        patches = tokens[:, 1:].reshape(len(tokens), rows, columns, self.width)
        return Tokens(tokens[:, 0], patches)


def build(spec: EncoderSpec) -> Network:
    """A network with random weights.

    Args:
        spec: A row whose arguments are described above.
    """
    body = VisionBranch(**{key: int(value) for key, value in spec.arguments.items()})
    return Beit3Network(body, int(spec.arguments["width"]))


def convert(spec: EncoderSpec, network: Network, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict under the names of `VisionBranch`.

    Args:
        spec: The row.
        network: What `build` made of it.
        state: As published; in it, `A` is the branch of images and `B` that of texts.

    Returns:
        For `network.body`; left out are the text branch, heads, the mask token and the logit scale.
    """
    converted = {}
    for key, value in state.items():
        name = key.removeprefix("beit3.")
        if _DROPPED.match(name):
            continue
        name = re.sub(r"^(vision_embed|encoder)\.", "", name)
        name = re.sub(r"\.A\.", ".", name)
        converted["positions" if name == "embed_positions.weight" else name] = value
    return converted
