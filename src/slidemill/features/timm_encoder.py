"""Encoders of timm: built by name, fed by the preprocessing that is stored with their weights.

Weights load strictly from safetensors, or from a state dict with `weights_only=True`; a missing or
an unexpected key is an error, and random weights are never used in place of missing ones.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import timm
import torch
from safetensors.torch import load_file
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from slidemill.errors import ConfigError, Problem, WeightsError
from slidemill.features.weights import Weights

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TimmEncoder:
    """A model of timm as a tile encoder; pooled features, no classifier.

    Attributes:
        dim: Length of a feature.
    """

    def __init__(self, name: str, weights: Weights, device: str, precision: str) -> None:
        """Build the model and load its weights.

        Args:
            name: Name of the model in timm, with or without its tag.
            weights: The file of its weights.
            device: `cpu`, `cuda` or `mps`.
            precision: `fp32`, `fp16` or `bf16`.

        Raises:
            ConfigError: If timm knows no such model.
            WeightsError: If the weights are not those of the model.
        """
        try:
            model = timm.create_model(name, pretrained=False, num_classes=0)
        except RuntimeError as error:
            problem = Problem("features.encoders", f"timm:{name}: {error}", "Mend the name")
            raise ConfigError("features", [problem]) from None
        _load_strictly(model, read_state(weights.path), weights.path)
        self._model = model.to(device).eval()
        self._device = torch.device(device)
        self._dtype = _DTYPES[precision]
        self._data = resolve_model_data_config(model)
        self.dim = int(model.num_features)

    def encode(self, tiles: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Features of tiles.

        Args:
            tiles: RGB, (N, T, T, 3) uint8.

        Returns:
            (N, dim) float32. A tile's row does not depend on the others.
        """
        batch = torch.from_numpy(tiles).to(self._device).permute(0, 3, 1, 2)
        with (
            torch.inference_mode(),
            torch.autocast(
                self._device.type, self._dtype, enabled=self._dtype is not torch.float32
            ),
        ):
            features: Tensor = self._model(self._prepare(batch))
        array: npt.NDArray[np.float32] = features.float().cpu().numpy()
        return array

    def _prepare(self, batch: Tensor) -> Tensor:
        """Resize, crop and normalise as the model was trained."""
        _, height, width = self._data["input_size"]
        edge = round(min(height, width) / float(self._data["crop_pct"]))
        mode = transforms.InterpolationMode(self._data["interpolation"])
        if batch.shape[-1] != edge:
            batch = transforms.resize(batch, [edge, edge], interpolation=mode, antialias=True)
        batch = transforms.center_crop(batch, [height, width])
        prepared: Tensor = transforms.normalize(
            batch.float() / 255.0, list(self._data["mean"]), list(self._data["std"])
        )
        return prepared


def read_state(path: Path) -> Mapping[str, Tensor]:
    """Read a state dict without running any code that may be in the file.

    Raises:
        WeightsError: If the file holds no state dict.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch and safetensors raise kinds of their own
        raise WeightsError(f"{path}: not readable as safe weights ({error}).") from None
    for key in ("state_dict", "model", "teacher"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path}: it holds no state dict of tensors. Save one, as safetensors.")
    return state


def _load_strictly(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load every weight; only the classifier, which was taken off, may be left over."""
    wanted = set(model.state_dict())
    head = str(getattr(model, "pretrained_cfg", {}).get("classifier") or "head")
    given = {key: value for key, value in state.items() if not key.startswith(f"{head}.")}
    missing, unexpected = sorted(wanted - set(given)), sorted(set(given) - wanted)
    if missing or unexpected:
        raise WeightsError(
            f"{path}: not the weights of this model: {len(missing)} keys are missing "
            f"{missing[:3]}, {len(unexpected)} are unexpected {unexpected[:3]}."
        )
    try:
        model.load_state_dict(given)
    except RuntimeError as error:
        raise WeightsError(f"{path}: not the weights of this model: {error}") from None
