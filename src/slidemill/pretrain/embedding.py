"""Embedding whole slides: what an evaluation reads of a slide encoder, and its controls.

Arrays in, arrays out; no files. A slide is read out in three ways (class token, mean of the tiles'
tokens, class tokens of all layers), by three encoders that differ in one thing each: the trained
one, the one before its first step, and the trained one on tiles that have changed places.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from slidemill.errors import SlideCode, SlideError, WeightsError
from slidemill.pretrain.bags import Float32Array, Int64Array
from slidemill.pretrain.crops import rebase
from slidemill.pretrain.encoder import SlideEncoder, autocast, wants_bf16
from slidemill.pretrain.packing import Packed, Sequences

Precision = Literal["auto", "fp32", "bf16"]
"""Value of the configuration's `precision`."""


@dataclass(frozen=True)
class Readouts:
    """What a slide encoder makes of a slide.

    Attributes:
        cls: float32 (width,), the class token after the last norm.
        mean_tokens: float32 (width,), mean of the tiles' tokens after the last norm.
        layers: float32 (depth + 1, width), class tokens of the embedding and of every block.
    """

    cls: Float32Array
    mean_tokens: Float32Array
    layers: Float32Array

    def arrays(self, prefix: str = "") -> dict[str, Float32Array]:
        """The arrays by the names that the format `slide-embedding` has for them."""
        return {
            f"{prefix}cls": self.cls,
            f"{prefix}mean_tokens": self.mean_tokens,
            f"{prefix}layers": self.layers,
        }


def embed_slide(
    encoder: SlideEncoder,
    features: npt.NDArray[np.floating],
    positions: Int64Array,
    device: str | torch.device,
    precision: Precision = "auto",
) -> Readouts:
    """Embed one whole slide, all tiles at once.

    Positions are shifted to start at 0, as they do in training. Two tiles may have the same
    position: they are two tokens with the same code. Memory grows with the tiles, not with their
    square.

    Args:
        encoder: The slide encoder; it is moved to the device and put into eval mode.
        features: float16 or float32 (N, D).
        positions: int64 (N, 2), column and row in the slide's grid.
        device: Where to compute: `cpu`, `cuda` or `mps`.
        precision: fp32; bf16, under autocast; or auto, which is bf16 on CUDA and fp32 elsewhere.

    Returns:
        Float32 arrays.

    Raises:
        SlideError: If the slide has no tiles (`no-tiles`), or features are nan or infinite
            (`not-finite`).
        WeightsError: If the features are not of the width that the encoder was trained on, or the
            encoder gives numbers that are not finite.
        ValueError: If features and positions do not match.
    """
    _check(encoder, features, positions)
    encoder.to(device).eval()
    bag = Packed(
        torch.from_numpy(np.ascontiguousarray(features)),
        torch.from_numpy(rebase(positions)),
        Sequences.of([len(features)]),
    ).to(device)
    with torch.inference_mode(), autocast(device, wants_bf16(precision, device)):
        found = encoder.encode(bag, layers=True)
    readouts = Readouts(
        _array(found.cls[0]), _array(found.tokens.float().mean(dim=0)), _array(found.layers[:, 0])
    )
    if not all(np.isfinite(array).all() for array in readouts.arrays().values()):
        raise WeightsError(
            "the slide encoder gives nan or infinite numbers of finite features: its weights are "
            "damaged, or its training diverged. Train it again (`--config recompute=pretrain`)."
        )
    return readouts


def shuffle_tiles(
    features: npt.NDArray[np.floating], seed: int, slide_id: str
) -> npt.NDArray[np.floating]:
    """A slide's tiles dealt anew to the places that they have between them.

    To an encoder with exact attention this is the same as permuting the positions. A dilated one
    also sees the order of tokens, which follows the tissue: with permuted positions alone it would
    still know which tiles were neighbours. So places and order stay, and tiles move.

    Args:
        features: (N, D), by tile.
        seed: Seed of the run, not negative.
        slide_id: The slide; each has a permutation of its own.

    Returns:
        (N, D), the same rows in another order.
    """
    name = np.frombuffer(hashlib.sha256(slide_id.encode()).digest(), dtype=np.uint32)
    rng = np.random.default_rng([seed, *name.tolist()])
    return features[rng.permutation(len(features))]


def embed_with_controls(
    trained: SlideEncoder,
    initial: SlideEncoder,
    features: npt.NDArray[np.floating],
    positions: Int64Array,
    *,
    seed: int,
    slide_id: str,
    device: str | torch.device,
    precision: Precision = "auto",
) -> dict[str, Float32Array]:
    """All datasets of a slide's embedding: the trained encoder's readouts and their controls.

    Args:
        trained: The encoder after its last step.
        initial: The same encoder before its first step: same shape, same seed, same moments.
        features: float16 or float32 (N, D).
        positions: int64 (N, 2), column and row in the slide's grid.
        seed: Seed of the run, not negative.
        slide_id: The slide.
        device: As for `embed_slide`.
        precision: As for `embed_slide`.

    Returns:
        Float32 arrays by the names of the format `slide-embedding`, version 2.

    Raises:
        SlideError, WeightsError, ValueError: As `embed_slide`.
    """
    moved = shuffle_tiles(features, seed, slide_id)
    return {
        **embed_slide(trained, features, positions, device, precision).arrays(),
        **embed_slide(initial, features, positions, device, precision).arrays("random_init_"),
        **embed_slide(trained, moved, positions, device, precision).arrays("shuffled_"),
    }


def _check(
    encoder: SlideEncoder, features: npt.NDArray[np.floating], positions: Int64Array
) -> None:
    if len(features) == 0:
        raise SlideError(SlideCode.NO_TILES, "no tiles to embed. Lower tiles.min_tissue")
    if features.ndim != 2 or features.shape[1] != encoder.dim:
        raise WeightsError(
            f"the slide encoder takes tile features of width {encoder.dim}, not "
            f"{features.shape}. Use the tile encoder that it was trained on."
        )
    if positions.shape != (len(features), 2):
        raise ValueError(f"features {features.shape} at positions {positions.shape}")
    bad = int((~np.isfinite(features)).any(axis=1).sum())
    if bad:
        raise SlideError(
            SlideCode.NOT_FINITE,
            f"features of {bad} of {len(features)} tiles are nan or infinite. Compute them again "
            "with `--config recompute=features`, or leave the slide out of the sheet",
        )


def _array(tensor: torch.Tensor) -> Float32Array:
    found: Float32Array = tensor.float().cpu().numpy()
    return found
