"""Networks of timm: vision transformers, and anything else that it knows by name.

Arguments of a row:

- `model`: name of the architecture in timm, with or without a tag;
- `options`: keywords of `timm.create_model`; layers are named by strings (`SwiGLUPacked`, `SiLU`);
- `naming`: `timm` (the default) or `dinov2`, whose checkpoints name some weights otherwise;
- `positions`: edge of the grid of the published position embedding, in patches, where the network
  is built with another: it is resampled once, on loading. Without it, grids have to agree;
- `drop`: beginnings of names that a published file has and the network lacks; by default the
  classifier's.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from timm.layers import SwiGLUPacked, resample_abs_pos_embed
from torch import Tensor, nn

from slidemill.errors import ConfigError, Problem
from slidemill.features.network import Network, Tokens
from slidemill.features.spec import EncoderSpec, Preprocessing

_LAYERS: dict[str, type[nn.Module]] = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU}


class TimmNetwork(Network):
    """A model of timm, its tokens told apart."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__(body, width, int(getattr(body, "num_prefix_tokens", 0)))
        self._has_cls = getattr(body, "cls_token", None) is not None
        self._channels_last = getattr(body, "output_fmt", "NCHW") == "NHWC"
        self._patch = _patch_size(body)

    def forward(self, images: Tensor) -> Tokens:
        """Run the network on (N, 3, H, W) float images; see `Network`."""
        body: Any = self.body
        features: Tensor = body.forward_features(images)
        pooled: Tensor | None = body.forward_head(features, pre_logits=True)
        if pooled is not None and pooled.ndim != 2:
            pooled = None  # the model was made without pooling
        if features.ndim == 4:
            patches = features if self._channels_last else features.permute(0, 2, 3, 1)
            return Tokens(patches=patches, pooled=pooled)
        if features.ndim != 3:
            return Tokens(pooled=pooled)
        cls = features[:, 0] if self._has_cls else None
        return Tokens(cls, self._grid(features[:, self.prefix_tokens :], images), pooled)

    def _grid(self, tokens: Tensor, images: Tensor) -> Tensor | None:
        """Patch tokens (N, rows x columns, D) in their grid; None where they have none."""
        if self._patch is None:
            return None
        rows, columns = images.shape[2] // self._patch[0], images.shape[3] // self._patch[1]
        if rows * columns != tokens.shape[1]:
            return None
        return tokens.reshape(tokens.shape[0], rows, columns, tokens.shape[2])


class TimmTrunk(Network):
    """A convolutional network of timm cut after one of its stages (`features_only`)."""

    def forward(self, images: Tensor) -> Tokens:
        """Run the network on (N, 3, H, W) float images; the last map is averaged for `pooled`."""
        last: Tensor = self.body(images)[-1]
        return Tokens(patches=last.permute(0, 2, 3, 1), pooled=last.mean(dim=(2, 3)))


def build(spec: EncoderSpec) -> Network:
    """A network with random weights.

    Args:
        spec: A row whose arguments are described above.

    Raises:
        ConfigError: If timm has no such model.
    """
    options = {
        key: _LAYERS[value] if key in ("mlp_layer", "act_layer") else value
        for key, value in spec.arguments.get("options", {}).items()
    }
    trunk = bool(options.get("features_only"))
    if not trunk:
        options = {"num_classes": 0, **options}
    name = str(spec.arguments["model"])
    try:
        body = timm.create_model(name, pretrained=False, **options)
    except RuntimeError as error:
        problem = Problem("features.encoders", f"{spec.name}: {error}", "Fix the name")
        raise ConfigError("features", [problem]) from None
    if trunk:
        return TimmTrunk(body, int(body.feature_info.channels()[-1]), 0)
    # Some heads widen what they pool: that width is the length of a pooled feature.
    hidden = getattr(body, "head_hidden_size", 0) if spec.outputs[0] == "pooled" else 0
    return TimmNetwork(body, int(hidden or body.num_features))


def convert(spec: EncoderSpec, network: Network, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict under timm's names.

    Args:
        spec: The row.
        network: What `build` made of it.
        state: As published.

    Returns:
        For `network.body`; what does not fit is left in it.
    """
    body: Any = network.body
    drop = tuple(spec.arguments.get("drop", ())) or _classifier(body)
    if spec.arguments.get("naming", "timm") == "dinov2":
        state = _from_dinov2(state, no_embed_class=bool(getattr(body, "no_embed_class", False)))
    state = {key: value for key, value in state.items() if not key.startswith(drop)}
    edge = spec.arguments.get("positions")
    if edge is not None and "pos_embed" in state:
        state["pos_embed"] = _resampled(state["pos_embed"], int(edge), network)
    return state


def preprocessing_of(network: Network) -> Preprocessing:
    """What timm says of the tiles of a model, for names that are not in the registry.

    Raises:
        ConfigError: If tiles cannot be prepared so: a rectangle, or another interpolation.
    """
    data: Mapping[str, Any] = resolve_model_data_config(network.body)
    _, height, width = data["input_size"]
    if height != width or data["interpolation"] not in ("bilinear", "bicubic"):
        what = f"timm's preprocessing of this model ({height} x {width} px, "
        what += f"{data['interpolation']}) is not supported"
        raise ConfigError("features", [Problem("features.encoders", what, "Choose another model")])
    # timm rounds the edge before the crop down.
    edge = math.floor(height / float(data["crop_pct"]))
    mean, std = (tuple(float(value) for value in data[key]) for key in ("mean", "std"))
    return Preprocessing(edge, height, data["interpolation"], mean, std)  # type: ignore[arg-type] # three of each


def _patch_size(body: nn.Module) -> tuple[int, int] | None:
    size = getattr(getattr(body, "patch_embed", None), "patch_size", None)
    if size is None:
        return None
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _classifier(body: nn.Module) -> tuple[str, ...]:
    """Beginnings of the names of the classifier's weights, which is not built."""
    name = (getattr(body, "pretrained_cfg", None) or {}).get("classifier") or "head"
    return tuple(f"{part}." for part in ([name] if isinstance(name, str) else name))


def _from_dinov2(state: dict[str, Tensor], *, no_embed_class: bool) -> dict[str, Tensor]:
    """Names of the DINOv2 code (Oquab et al. 2023) to timm's.

    A training checkpoint keeps the backbone beside its heads, and blocks in chunks; the position
    of the class token is a part of the position embedding, which timm adds to the token itself
    where there are registers.
    """
    renamed = {}
    for key, value in state.items():
        name = key.removeprefix("backbone.")
        if name == "mask_token" or name.startswith(("dino_head.", "ibot_head.")):
            continue
        name = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name)
        name = name.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")
        renamed["reg_token" if name == "register_tokens" else name] = value
    # Without that name it is timm's own naming already, in which positions are apart.
    if no_embed_class and "register_tokens" in state and {"cls_token", "pos_embed"} <= set(renamed):
        positions = renamed["pos_embed"]
        renamed["cls_token"] = renamed["cls_token"] + positions[:, :1]
        renamed["pos_embed"] = positions[:, 1:]
    return renamed


def _resampled(positions: Tensor, edge: int, network: Network) -> Tensor:
    """A position embedding of `edge` x `edge` patches for the grid of the network.

    One of another grid is returned as it is, for strict loading to refuse.
    """
    body: Any = network.body
    prefix = 0 if body.no_embed_class else int(body.num_prefix_tokens)
    if positions.ndim != 3 or positions.shape[1] != edge * edge + prefix:
        return positions
    grid = list(body.patch_embed.grid_size)
    with torch.no_grad():
        found: Tensor = resample_abs_pos_embed(
            positions.float(), new_size=grid, old_size=[edge, edge], num_prefix_tokens=prefix,
            interpolation="bicubic", antialias=True,
        )  # fmt: skip
    return found
