"""The GigaPath slide encoder's published weights, under the names that `LongNet` has for them.

Nothing is read or written. Source: Xu et al. 2024 (10.1038/s41586-024-07441-w) and its public
checkpoint. Every weight of a state dict is used or is on the list of those known to be of no use;
anything else is an error that names it.
"""

import math
import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from slidemill.errors import WeightsError

HEADS = 16
UNUSED = frozenset({"pos_embed"})  # the table of positions, which are computed here

_EMBED = "patch_embed.proj.weight"
_PLAIN = {
    "patch_embed.proj": "embed",
    "encoder.layer_norm": "final_norm",
    "norm": "norm",
}
_BLOCK = {
    "self_attn_layer_norm": "attention_norm",
    "self_attn.inner_attn_ln": "mixed_norm",
    "self_attn.out_proj": "project",
    "final_layer_norm": "mlp_norm",
    "ffn.fc1": "mlp.0",
    "ffn.ffn_layernorm": "mlp.2",
    "ffn.fc2": "mlp.3",
}
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_NAMED = 12


def segment_lengths(tile_size: int, max_wsi_size: int) -> tuple[int, ...]:
    """Segments of its five branches: from 1,024 tokens to those of a full slide, evenly in log2.

    Args:
        tile_size: Edge of a tile, pixels.
        max_wsi_size: Edge of the largest slide, pixels.

    Returns:
        floor(2^e) for five even steps e from 10 to floor(log2((max_wsi_size / tile_size)^2)).

    Raises:
        ValueError: If the largest slide is smaller than a tile.
    """
    if not 0 < tile_size <= max_wsi_size:
        raise ValueError(f"tiles of {tile_size} px on slides of at most {max_wsi_size} px")
    last = int(math.log2((max_wsi_size / tile_size) ** 2))
    return tuple(int(2.0**exponent) for exponent in np.linspace(10, last, 5))


def translate(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by `LongNet`'s names, float32 copies.

    Raises:
        WeightsError: If a weight is missing, unknown or of another shape than the others ask for.
    """
    shapes = _shapes(state_dict)
    problems = [
        *_named("missing", [key for key in shapes if key not in state_dict]),
        *_named(
            "unknown", [key for key in state_dict if key not in shapes | dict.fromkeys(UNUSED)]
        ),
        *_named(
            "of another shape",
            [
                f"{key} {tuple(state_dict[key].shape)} instead of {shape}"
                for key, shape in shapes.items()
                if key in state_dict and tuple(state_dict[key].shape) != shape
            ],
        ),
    ]
    if problems:
        raise WeightsError(
            f"not the weights of a GigaPath slide encoder: {'; '.join(problems)}. Give its state "
            "dict by the names of the published checkpoint, without prefixes."
        )
    given = {key: state_dict[key].detach().to(torch.float32, copy=True) for key in shapes}
    return _renamed(given)


def _renamed(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    weights = {"class_token": given["cls_token"].flatten()}
    for part in ("weight", "bias"):
        for old, new in _PLAIN.items():
            weights[f"{new}.{part}"] = given[f"{old}.{part}"]
        for i in range(_depth(given)):
            theirs, ours = f"encoder.layers.{i}", f"layers.{i}"
            for old, new in _BLOCK.items():
                weights[f"{ours}.{new}.{part}"] = given[f"{theirs}.{old}.{part}"]
            weights[f"{ours}.query_key_value.{part}"] = torch.cat(
                [given[f"{theirs}.self_attn.{name}.{part}"] for name in _PROJECTIONS]
            )
    return weights


def _shapes(state_dict: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shape of every weight that there has to be, by the first weight and the number of layers."""
    if _EMBED not in state_dict or state_dict[_EMBED].ndim != 2:
        raise WeightsError(
            f"not the weights of a GigaPath slide encoder: no {_EMBED} of two axes among "
            f"{len(state_dict)} names. Give its state dict (the entry `model` of the published "
            "file) by its own names, without prefixes."
        )
    width, dim = state_dict[_EMBED].shape
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, width)}
    shapes |= _linear("patch_embed.proj", dim, width)
    for i in range(_depth(state_dict)):
        layer = f"encoder.layers.{i}"
        for name in (*_PROJECTIONS, "out_proj"):
            shapes |= _linear(f"{layer}.self_attn.{name}", width, width)
        shapes |= _norm(f"{layer}.self_attn.inner_attn_ln", width)
        shapes |= _norm(f"{layer}.self_attn_layer_norm", width)
        shapes |= _linear(f"{layer}.ffn.fc1", width, 4 * width)
        shapes |= _norm(f"{layer}.ffn.ffn_layernorm", 4 * width)
        shapes |= _linear(f"{layer}.ffn.fc2", 4 * width, width)
        shapes |= _norm(f"{layer}.final_layer_norm", width)
    return shapes | _norm("encoder.layer_norm", width) | _norm("norm", width)


def _linear(name: str, width: int, out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _depth(names: Mapping[str, Tensor]) -> int:
    """How many numbers of layers there are; at least 1, so that none at all is noticed."""
    found = [re.match(r"encoder\.layers\.(\d+)\.", name) for name in names]
    return max(len({match[1] for match in found if match}), 1)


def _named(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return [f"{what}: {', '.join(names[:_NAMED])}{more}"]
