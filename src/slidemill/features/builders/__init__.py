"""Builders: from a row of the registry to a network.

A builder is a module of this package that has

- `build(spec) -> Network`: the network with random weights; it also works under
  `torch.device("meta")`;
- `convert(spec, network, state) -> dict`: a published state dict under the names of `network.body`.
  It renames, and leaves out what the row or the builder names (a classifier, a mask token, a text
  tower); whatever else does not fit is left in, so that strict loading refuses it;

or, where a stored program is the network, instead of both

- `load(spec, path) -> Network`: the network with its weights.

Libraries are imported by the builder that needs them, when it is needed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from slidemill.features.spec import EncoderSpec

if TYPE_CHECKING:
    from torch import Tensor

    from slidemill.features.network import Network

    Build = Callable[[EncoderSpec], Network]
    Convert = Callable[[EncoderSpec, Network, dict[str, Tensor]], dict[str, Tensor]]
    Load = Callable[[EncoderSpec, Path], Network]


@dataclass(frozen=True)
class Builder:
    """What a builder module offers.

    Attributes:
        build: A network with random weights.
        convert: A published state dict under the network's names.
        load: A stored program; None for builders that build and convert.
    """

    build: "Build"
    convert: "Convert"
    load: "Load | None"


def builder_of(spec: EncoderSpec) -> Builder:
    """The builder that a row names; imports its library.

    Raises:
        ValueError: If the row names none that makes a network (handcrafted, none).
    """
    if not spec.needs_weights:
        raise ValueError(f"{spec.name}: no builder makes a network of it")
    module = import_module(f"{__name__}.{spec.builder}")
    return Builder(
        getattr(module, "build", None) or _not_built,
        getattr(module, "convert", None) or _not_converted,
        getattr(module, "load", None),
    )


def _not_built(spec: EncoderSpec) -> "Network":
    raise ValueError(f"{spec.name} is a stored program; it cannot be built without its weights")


def _not_converted(
    spec: EncoderSpec, network: "Network", state: "dict[str, Tensor]"
) -> "dict[str, Tensor]":
    return state
