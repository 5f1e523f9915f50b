"""The registry of tile encoders: rows of data, looked up without importing torch.

A row says what an encoder is (dimension, the tile it was made for, precision, licence); builders
make it. Handcrafted encoders need no weights. `timm:ARCH.TAG` names any model of timm whose weights
lie on the Hugging Face hub as `timm/ARCH.TAG`; they are never replaced by random ones.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slidemill.config import EncoderEntry
from slidemill.errors import ConfigError, Problem
from slidemill.features.weights import Weights, find_hub_weights, weights_of_file

Builder = Literal["hed-texture", "rgb-mean", "timm"]
TIMM_PREFIX = "timm:"


@dataclass(frozen=True)
class EncoderSpec:
    """What is known of an encoder before it is built.

    Attributes:
        name: Its name in the configuration.
        builder: What makes it.
        dim: Length of a feature; None where only the model itself knows (plain timm names).
        tile_px: Edge of the tiles it was made for; None where unknown.
        mpp: Resolution it was made for, um per pixel; None where unknown.
        precision: Arithmetic it was trained in: what `precision: auto` means on a GPU.
        algorithm_version: Raised when the code of the encoder changes its features.
        licence: Licence of its weights, or of its code where it has none.
        source: Where it comes from: a paper or a page.
    """

    name: str
    builder: Builder
    dim: int | None
    tile_px: int | None
    mpp: float | None
    precision: Literal["fp32", "fp16", "bf16"]
    algorithm_version: int
    licence: str
    source: str

    @property
    def needs_weights(self) -> bool:
        """Whether there are weights to load."""
        return self.builder == "timm"


ENCODERS: dict[str, EncoderSpec] = {
    spec.name: spec
    for spec in (
        EncoderSpec(
            name="hed-texture",
            builder="hed-texture",
            dim=64,
            tile_px=256,
            mpp=0.5,
            precision="fp32",
            algorithm_version=1,
            licence="Apache-2.0",
            source="docs/encoders/hed-texture.md",
        ),
        EncoderSpec(
            name="rgb-mean",
            builder="rgb-mean",
            dim=3,
            tile_px=256,
            mpp=0.5,
            precision="fp32",
            algorithm_version=1,
            licence="Apache-2.0",
            source="mean of the tile's red, green and blue, 0 to 255",
        ),
    )
}
"""Every registered encoder by name."""


@dataclass(frozen=True)
class Encoder:
    """An encoder of the configuration, its weights found.

    Attributes:
        spec: What it is.
        weights: The file of its weights; None where it needs none.
        own_weights: Whether they are a checkpoint of the user's.
    """

    spec: EncoderSpec
    weights: Weights | None
    own_weights: bool

    @property
    def label(self) -> str:
        """Its name as part of a folder's name."""
        name = self.spec.name.replace(":", "-").replace("/", "-")
        return f"{name}-{self.weights.sha256[:6]}" if self.own_weights and self.weights else name

    @property
    def weights_sha256(self) -> str:
        """sha256 of the weights; empty where there are none."""
        return self.weights.sha256 if self.weights else ""


def find_spec(name: str) -> EncoderSpec:
    """Look an encoder up by its name.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name in ENCODERS:
        return ENCODERS[name]
    if name.startswith(TIMM_PREFIX) and name.removeprefix(TIMM_PREFIX):
        model = name.removeprefix(TIMM_PREFIX)
        return EncoderSpec(
            name=name,
            builder="timm",
            dim=None,
            tile_px=None,
            mpp=None,
            precision="fp32",
            algorithm_version=1,
            licence="see its page",
            source=f"https://huggingface.co/timm/{model}",
        )
    near = difflib.get_close_matches(name, ENCODERS, n=1)
    hint = f"Did you mean {near[0]}" if near else "`slidemill encoders` lists them"
    problem = Problem("features.encoders", f"no encoder is called {name!r}", hint)
    raise ConfigError("features", [problem])


def resolve(entry: EncoderEntry, folder: Path) -> Encoder:
    """Find an encoder and its weights, importing no torch and downloading nothing.

    Args:
        entry: The encoder of the configuration.
        folder: Where relative checkpoint paths start.

    Raises:
        ConfigError: If there is no such encoder, or it takes no checkpoint.
        WeightsError: If the weights are not on this machine.
    """
    spec = find_spec(entry.name)
    if not spec.needs_weights:
        if entry.checkpoint is not None:
            what = f"{entry.name} has no weights to load"
            problem = Problem("features.encoders", what, "Remove its checkpoint")
            raise ConfigError("features", [problem])
        return Encoder(spec, None, own_weights=False)
    if entry.checkpoint is not None:
        return Encoder(spec, weights_of_file(folder / entry.checkpoint), own_weights=True)
    model = spec.name.removeprefix(TIMM_PREFIX)
    return Encoder(spec, find_hub_weights(f"timm/{model}"), own_weights=False)
