"""From an encoder of the configuration, its weights found, to something that encodes tiles."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from slidemill.errors import WeightsError
from slidemill.features.encoders import Encoder
from slidemill.features.spec import Preprocessing

if TYPE_CHECKING:
    from slidemill.features.network import Network
    from slidemill.features.torch_encoder import TorchEncoder

Encode = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
"""(N, T, T, 3) uint8 RGB to (N, D) float32."""


@dataclass(frozen=True)
class HostEncoder:
    """A handcrafted encoder: a function on arrays.

    Attributes:
        encode: (N, T, T, 3) uint8 RGB to (N, dim) float32.
        dim: Length of a feature.
    """

    encode: Encode
    dim: int


def build(encoder: Encoder, tokens: bool = False) -> "HostEncoder | TorchEncoder":
    """Make an encoder ready to run.

    Args:
        encoder: What to build; its weights have been found.
        tokens: Whether patch tokens are wanted beside the features.

    Returns:
        A function on arrays for handcrafted encoders; for networks a module on the CPU, in
        float32, in evaluation mode, without gradients.

    Raises:
        ConfigError: If the encoder is not known to its library.
        WeightsError: If the weights do not fit; random ones never take their place.
    """
    if encoder.spec.builder == "handcrafted":
        return _handcrafted(encoder)
    from slidemill.features.torch_encoder import TorchEncoder

    network = build_network(encoder)
    preprocessing = encoder.spec.preprocessing or _own_preprocessing(network)
    built = TorchEncoder(network, preprocessing, encoder.output, tokens=tokens)
    return built.float().eval().requires_grad_(False)


def build_network(encoder: Encoder) -> "Network":
    """The network of an encoder with its weights, on the CPU.

    Raises:
        ConfigError: If the encoder is not known to its library.
        WeightsError: If the weights do not fit.
    """
    import torch

    from slidemill.features.builders import builder_of
    from slidemill.features.loading import is_whole, load_strictly, read_state

    spec, weights = encoder.spec, encoder.weights
    if weights is None:
        raise WeightsError(f"{spec.name}: no weights were found.")
    builder = builder_of(spec)
    if builder.load is not None:
        return builder.load(spec, weights.path)
    state = read_state(weights.path)
    # Random weights of a giant take minutes and twice the memory: names and shapes are enough.
    # Foreign code may not bear that.
    with torch.device("cpu" if spec.runs_foreign_code else "meta"):
        network = builder.build(spec)
    state = builder.convert(spec, network, state)
    load_strictly(network.body, state, weights.path)
    if not is_whole(network):
        # Tables that are computed and not stored have no values yet: build it with them.
        network = builder.build(spec)
        load_strictly(network.body, state, weights.path)
    return network


def _own_preprocessing(network: "Network") -> Preprocessing:
    from slidemill.features.builders.timm import preprocessing_of

    return preprocessing_of(network)


def _handcrafted(encoder: Encoder) -> HostEncoder:
    from slidemill.features import hed_texture, rgb_mean

    encode = {"hed-texture": hed_texture.encode, "rgb-mean": rgb_mean.encode}[encoder.spec.name]
    dim = encoder.dim
    assert dim is not None
    return HostEncoder(encode, dim)
