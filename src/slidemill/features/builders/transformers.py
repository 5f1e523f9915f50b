"""Networks of the transformers library, without any code from a model's own repository.

Arguments of a row:

- `model`: a class of `transformers`, one of `ViTModel`, `Dinov2Model`, `Dinov2WithRegistersModel`
  and `CLIPVisionModelWithProjection`;
- `config`: fields of its configuration; with it no `config.json` is needed;
- `naming`: `transformers` (the default), or `open_clip` for CLIP checkpoints of that library.

The library has renamed its layers since the checkpoints were published: names are translated to
those of the installed version.
"""

import re
from typing import Any

import torch
from torch import Tensor, nn

from slidemill.errors import ConfigError, Problem
from slidemill.features.network import Network, Tokens
from slidemill.features.spec import EncoderSpec

try:
    import transformers
except ImportError:  # it is an optional extra
    transformers = None

_CONFIGS = {
    "ViTModel": "ViTConfig",
    "Dinov2Model": "Dinov2Config",
    "Dinov2WithRegistersModel": "Dinov2WithRegistersConfig",
    "CLIPVisionModelWithProjection": "CLIPVisionConfig",
}

_OF_VIT = (
    (r"^encoder\.layer\.", "layers."),
    (r"\.attention\.attention\.query\.", ".attention.q_proj."),
    (r"\.attention\.attention\.key\.", ".attention.k_proj."),
    (r"\.attention\.attention\.value\.", ".attention.v_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^(layers\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)
_OF_DINOV2 = (*_OF_VIT[1:5], (r"\.mlp\.weights_out\.", ".mlp.down_proj."))

_NOT_IMAGES = re.compile(
    r"(text_model|text_projection|transformer|token_embedding|ln_final)\b"
    r"|(positional_embedding|logit_scale|logit_bias|text_projection)$"
)
"""The text tower of CLIP, as transformers and as open_clip name it."""


class TransformersNetwork(Network):
    """A vision transformer whose tokens are its last hidden state."""

    def __init__(self, body: nn.Module, width: int, prefix_tokens: int, patch_px: int) -> None:
        super().__init__(body, width, prefix_tokens)
        self._patch_px = patch_px

    def forward(self, images: Tensor) -> Tokens:
        """Run the network on (N, 3, H, W) float images; see `Network`."""
        hidden: Tensor = self.body(pixel_values=images).last_hidden_state
        rows, columns = images.shape[2] // self._patch_px, images.shape[3] // self._patch_px
        patches = hidden[:, self.prefix_tokens :].reshape(len(hidden), rows, columns, self.width)
        return Tokens(hidden[:, 0], patches)


class ClipNetwork(Network):
    """The image tower of CLIP (Radford et al. 2021): the class token, projected, not normalised."""

    def forward(self, images: Tensor) -> Tokens:
        """Run the network on (N, 3, H, W) float images; see `Network`."""
        return Tokens(pooled=self.body(pixel_values=images).image_embeds)


def build(spec: EncoderSpec) -> Network:
    """A network with random weights.

    Args:
        spec: A row whose arguments are described above.

    Raises:
        ConfigError: If the library is not installed, or too old to have the model.
    """
    require_transformers(spec)
    name = str(spec.arguments["model"])
    options = dict(spec.arguments["config"])
    config = getattr(transformers, _CONFIGS[name])(**options)
    if name == "CLIPVisionModelWithProjection":
        body = transformers.CLIPVisionModelWithProjection(config)
        return ClipNetwork(body, int(config.projection_dim), 0)
    extra = {"add_pooling_layer": False} if name == "ViTModel" else {}
    body = getattr(transformers, name)(config, **extra)
    # Only training hides patches; without it the token need not be in a checkpoint either.
    body.embeddings.mask_token = None
    registers = int(getattr(config, "num_register_tokens", 0))
    return TransformersNetwork(body, int(config.hidden_size), 1 + registers, int(config.patch_size))


def convert(spec: EncoderSpec, network: Network, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict under the names of the installed library.

    A position embedding of DINOv2 keeps the size it was published with: the model itself
    interpolates it to the grid of its input.

    Args:
        spec: The row.
        network: What `build` made of it.
        state: As published.

    Returns:
        For `network.body`; left out are the mask token, the pooler that no class token passes
        through, position numbers, and CLIP's text tower.
    """
    wanted = set(network.body.state_dict())
    model = str(spec.arguments["model"])
    if model == "CLIPVisionModelWithProjection":
        if spec.arguments.get("naming", "transformers") == "open_clip":
            return _from_open_clip(state)
        return {
            key: value
            for key, value in state.items()
            if not _NOT_IMAGES.match(key) and not key.endswith(".position_ids")
        }
    rules = _OF_VIT if model == "ViTModel" else _OF_DINOV2
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        name = re.sub(r"^(vit|dinov2|dinov2_with_registers)\.", "", key)
        if name == "embeddings.mask_token" or name.startswith("pooler."):
            continue
        if ".mlp.weights_in." in name and name not in wanted:
            # Gate and value of a SwiGLU layer were one matrix, the gate first.
            gate, up = value.chunk(2)
            converted[name.replace("weights_in", "gate_proj")] = gate
            converted[name.replace("weights_in", "up_proj")] = up
            continue
        renamed = name
        for pattern, replacement in rules:
            renamed = re.sub(pattern, replacement, renamed)
        converted[renamed if renamed in wanted else name] = value
    if model != "ViTModel":
        _adopt_positions(network, converted.get("embeddings.position_embeddings"))
    return converted


def require_transformers(spec: EncoderSpec) -> None:
    """Refuse a row where the library is not installed.

    Raises:
        ConfigError: If it is not.
    """
    if transformers is None:
        problem = Problem(
            "features.encoders",
            f"{spec.name} needs the transformers library",
            "Run pip install 'slidemill[transformers]'",
        )
        raise ConfigError("features", [problem])


def _adopt_positions(network: Network, published: Tensor | None) -> None:
    """Give a DINOv2 body a position embedding of the published size, if it is of a square grid."""
    body: Any = network.body
    own = body.embeddings.position_embeddings
    if published is None or published.ndim != 3 or published.shape == own.shape:
        return
    edge = round((published.shape[1] - 1) ** 0.5)
    if edge**2 == published.shape[1] - 1 and published.shape[::2] == own.shape[::2]:
        empty = torch.empty(published.shape, dtype=own.dtype, device=own.device)
        body.embeddings.position_embeddings = nn.Parameter(empty)


_OF_OPEN_CLIP = (
    (r"^class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^ln_post\.", "vision_model.post_layernorm."),
    (r"^transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"\.ln_(\d)\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
)


def _from_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The image tower of an open_clip checkpoint, whose names begin with `visual.`."""
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        if not key.startswith("visual."):
            if not _NOT_IMAGES.match(key):
                converted[key] = value
            continue
        name = key.removeprefix("visual.")
        if name == "proj":
            # There it is multiplied from the right, here it is a linear layer.
            converted["visual_projection.weight"] = value.t().contiguous()
            continue
        for pattern, replacement in _OF_OPEN_CLIP:
            name = re.sub(pattern, replacement, name)
        packed = re.fullmatch(r"(.+)\.attn\.in_proj_(weight|bias)", name)
        if packed is None:
            converted[name] = value
            continue
        layer, kind = packed.groups()
        for letter, part in zip("qkv", value.chunk(3), strict=True):
            converted[f"{layer}.self_attn.{letter}_proj.{kind}"] = part
    return converted
