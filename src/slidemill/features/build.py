"""From an encoder of the configuration to a function on tiles."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from slidemill.errors import WeightsError
from slidemill.features.encoders import TIMM_PREFIX, Encoder

Encode = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
"""(N, T, T, 3) uint8 RGB to (N, D) float32."""


def build(encoder: Encoder, device: str, precision: str) -> Encode:
    """Make an encoder ready to run.

    Args:
        encoder: What to build; its weights have been found.
        device: `auto`, `cpu`, `cuda` or `mps`.
        precision: `auto`, `fp32`, `fp16` or `bf16`.

    Raises:
        ConfigError: If the encoder is not known to its library.
        WeightsError: If the weights do not fit.
    """
    if encoder.spec.builder == "hed-texture":
        from slidemill.features import hed_texture

        return hed_texture.encode
    if encoder.spec.builder == "rgb-mean":
        from slidemill.features import rgb_mean

        return rgb_mean.encode
    if encoder.weights is None:
        raise WeightsError(f"{encoder.spec.name}: no weights were found.")
    from slidemill.device import choose_device
    from slidemill.features.timm_encoder import TimmEncoder

    chosen = choose_device(device)
    if precision == "auto":
        precision = encoder.spec.precision if chosen == "cuda" else "fp32"
    name = encoder.spec.name.removeprefix(TIMM_PREFIX)
    return TimmEncoder(name, encoder.weights, chosen, precision).encode
