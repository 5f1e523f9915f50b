"""Tissue by a segmentation network, with a file of weights that the user brings.

Reads weights (safetensors, or a state dict by `weights_only=True`, so nothing is unpickled) and
windows of a slide at the network's own resolution. Gives a class map of `TissueClass` values.
Weights load strictly: a missing, unexpected or differently shaped key is an error, and nothing is
ever left at random. Nothing is downloaded.

Memory is that of one batch of windows plus one byte per pixel of the map, however large the slide.
Windows overlap, and only the core of each is kept; a network whose outputs depend on at most an
eighth of a window around them therefore gives the same map as on the whole slide at once. The
same weights, slide and device type give the same map on the CPU; other devices round differently.
"""

import importlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from slidemill.config.slides import UnetConfig
from slidemill.device import choose_device
from slidemill.errors import ConfigError, Problem, UserError, WeightsError
from slidemill.tissue.classes import TissueClass

Pixels = npt.NDArray[np.uint8]
ReadWindow = Callable[[int, int, int, int], Pixels]
"""Left, top, width and height in pixels of the network's resolution; RGB (height, width, 3)."""

MARGIN_FRACTION = 8
"""A window's margin is its edge divided by this; what the network says there is not used."""
BATCH_PIXELS = 2**21
"""Pixels of the windows that go through the network at once: eight of 512 x 512."""
WRAPPER_PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
"""Prefixes that training code puts before every key: DataParallel, Lightning, torch.compile."""

_SMP_CLASSES = {
    "unet": "Unet",
    "unetplusplus": "UnetPlusPlus",
    "deeplabv3": "DeepLabV3",
    "deeplabv3plus": "DeepLabV3Plus",
    "fpn": "FPN",
}
_TORCHVISION = "torchvision-deeplabv3"
_TORCHVISION_BACKBONES = ("resnet50", "resnet101")
_GUIDE = "docs/tissue-networks.md"


class Segmenter:
    """A network that tells tissue from glass, and what else it was trained on.

    Attributes:
        margin: Pixels at each edge of a window whose classes are not used.
        core: Edge of the part of a window that is used, in pixels.
    """

    def __init__(self, model: nn.Module, config: UnetConfig, device: str) -> None:
        """Put a network to work.

        Args:
            model: Takes (N, 3, tile_px, tile_px) float32; gives (N, len(classes), tile_px,
                tile_px) logits, or a mapping that has them under `out`, as torchvision's do.
            config: Classes, window and normalisation of the network.
            device: `cpu`, `cuda` or `mps`.
        """
        self._device = torch.device(device)
        self._model = model.to(self._device).eval()
        self._tile = config.tile_px
        self._classes = config.classes
        self._values = torch.tensor(
            [TissueClass[name.upper()].value for name in config.classes],
            dtype=torch.uint8,
            device=self._device,
        )
        self._mean = torch.tensor(config.mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(config.std, device=self._device).view(1, 3, 1, 1)
        self._batch = max(1, BATCH_PIXELS // self._tile**2)
        self.margin = self._tile // MARGIN_FRACTION
        self.core = self._tile - 2 * self.margin

    def predict(self, read: ReadWindow, width: int, height: int) -> Pixels:
        """Class of every pixel of a slide.

        Every window is computed, white or not: what a network says about glass is its own affair.

        Args:
            read: Delivers a window; it may begin before 0 and end beyond the slide, and has to be
                white there. It is called for at most `BATCH_PIXELS` pixels or one window.
            width: Width of the slide in pixels of the network's resolution.
            height: The same of its height.

        Returns:
            (height, width) uint8, values of `TissueClass`.

        Raises:
            WeightsError: If the network's outputs are not finite, or not of the right shape.
        """
        result = np.empty((height, width), dtype=np.uint8)
        for top in range(0, height, self.core):
            for left in range(0, width, self.core * self._batch):
                count = min(self._batch, math.ceil((width - left) / self.core))
                strip = self._classify_strip(read, left, top, count)
                target = result[top : top + self.core, left : left + count * self.core]
                target[:] = strip[: target.shape[0], : target.shape[1]]
        return result

    def _classify_strip(self, read: ReadWindow, left: int, top: int, count: int) -> Pixels:
        """Classes of `count` cores side by side, (core, count * core)."""
        # One read for all of them, since the windows share their margins.
        width = count * self.core + 2 * self.margin
        block = read(left - self.margin, top - self.margin, width, self._tile)
        if block.shape != (self._tile, width, 3) or block.dtype != np.uint8:
            raise ValueError(
                f"a window of {width} x {self._tile} px was read as {block.shape} {block.dtype}"
            )
        starts = range(0, count * self.core, self.core)
        classes = self._classify(np.stack([block[:, x : x + self._tile] for x in starts]))
        inner = slice(self.margin, self.margin + self.core)
        return np.concatenate(list(classes[:, inner, inner]), axis=1)

    def _classify(self, windows: Pixels) -> Pixels:
        """Classes of windows, (N, tile_px, tile_px, 3) to (N, tile_px, tile_px)."""
        with torch.inference_mode():
            batch = torch.from_numpy(windows).to(self._device).permute(0, 3, 1, 2)
            output = self._model((batch.float() / 255.0 - self._mean) / self._std)
            logits: Tensor = output["out"] if isinstance(output, Mapping) else output
            expected = (len(windows), len(self._classes), self._tile, self._tile)
            if tuple(logits.shape) != expected:
                raise WeightsError(
                    f"the tissue network gave {tuple(logits.shape)} where {expected} (windows, "
                    "classes, rows, columns) was due. Fix tissue.unet.classes or the architecture."
                )
            if not bool(torch.isfinite(logits).all()):
                raise WeightsError(
                    "the tissue network gave values that are not finite. Its weights are damaged, "
                    "or tissue.unet.mean and std are not those it was trained with."
                )
            classes: Pixels = self._values[logits.argmax(dim=1)].cpu().numpy()
        return classes


def load_segmenter(config: UnetConfig, checkpoint: Path, device: str) -> Segmenter:
    """Build the network and load its weights.

    Args:
        config: Architecture, backbone, classes, window and normalisation.
        checkpoint: The file of weights.
        device: `auto`, `cpu`, `cuda` or `mps`.

    Raises:
        UserError: If segmentation-models-pytorch is needed and not installed.
        ConfigError: If the architecture has no such backbone, or the device is not there.
        WeightsError: If the file is missing, not safe to read, or not of this network.
    """
    # torch is slow to import and not needed by those who use Otsu.
    from slidemill.features.loading import read_state

    if not checkpoint.is_file():
        raise WeightsError(f"{checkpoint}: there is no such file. Fix tissue.unet.checkpoint.")
    chosen = choose_device(device)
    try:
        state = _unwrap(read_state(checkpoint))
    except WeightsError as error:
        raise WeightsError(
            f"{checkpoint}: it holds no weights that are safe to read. Taken are safetensors "
            "files and state dicts of tensors; a whole pickled network, TorchScript or a damaged "
            f"file is not. {_GUIDE} says how to save a state dict."
        ) from error
    _check_outputs(state, config, checkpoint)
    model = _build(config)
    _load_strictly(model, state, config, checkpoint)
    return Segmenter(model, config, chosen)


def _unwrap(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off the prefixes that all keys share because of how the network was trained."""
    bare = {str(key): value for key, value in state.items()}
    while bare:
        shared = [p for p in WRAPPER_PREFIXES if all(key.startswith(p) for key in bare)]
        if not shared:
            break
        bare = {key.removeprefix(shared[0]): value for key, value in bare.items()}
    # Heads that only training uses; no output of theirs is part of the map.
    unused = ("aux_classifier.", "classification_head.")
    return {key: value for key, value in bare.items() if not key.startswith(unused)}


def _check_outputs(state: Mapping[str, Tensor], config: UnetConfig, checkpoint: Path) -> None:
    """Tell a wrong number of classes apart from weights of another network.

    Raises:
        WeightsError: If the last layer of the weights has not one output per class.
    """
    is_torchvision = config.architecture == _TORCHVISION
    head = state.get("classifier.4.weight" if is_torchvision else "segmentation_head.0.weight")
    if head is None or head.ndim == 0 or len(head) == len(config.classes):
        return
    outputs = "1 output" if len(head) == 1 else f"{len(head)} outputs"
    todo = "Name every output in order; a name may be there twice."
    if len(head) == 1:
        todo = "Networks with a single (sigmoid) output are not taken: retrain it with two."
    raise WeightsError(
        f"{checkpoint}: the network has {outputs}, and tissue.unet.classes names "
        f"{len(config.classes)} ({', '.join(config.classes)}). {todo}"
    )


def _build(config: UnetConfig) -> nn.Module:
    """The network without weights.

    Raises:
        UserError: If segmentation-models-pytorch is needed and not installed.
        ConfigError: If there is no such backbone for the architecture.
    """
    if config.architecture == _TORCHVISION:
        return _build_torchvision(config)
    try:
        smp = importlib.import_module("segmentation_models_pytorch")
    except ImportError as error:
        raise UserError(
            f"tissue.unet.architecture {config.architecture} needs segmentation-models-pytorch, "
            f"which cannot be imported ({error}). Install it: pip install 'slidemill[unet]'."
        ) from None
    try:
        model: nn.Module = getattr(smp, _SMP_CLASSES[config.architecture])(
            encoder_name=config.backbone,
            encoder_weights=None,
            in_channels=3,
            classes=len(config.classes),
        )
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise _backbone_error(
            config, reason, "Name an encoder of segmentation-models-pytorch, or tu-NAME for timm's"
        ) from None
    return model


def _build_torchvision(config: UnetConfig) -> nn.Module:
    """DeepLabV3 of torchvision, without its auxiliary head."""
    from torchvision.models import segmentation

    if config.backbone not in _TORCHVISION_BACKBONES:
        raise _backbone_error(config, "no such backbone", "Use resnet50 or resnet101")
    model: nn.Module = getattr(segmentation, f"deeplabv3_{config.backbone}")(
        weights=None, weights_backbone=None, num_classes=len(config.classes), aux_loss=False
    )
    return model


def _backbone_error(config: UnetConfig, reason: str, todo: str) -> ConfigError:
    what = f"{config.architecture} cannot be built with {config.backbone} ({reason})"
    return ConfigError("tissue", [Problem("tissue.unet.backbone", what, todo)])


def _load_strictly(
    model: nn.Module, state: dict[str, Tensor], config: UnetConfig, checkpoint: Path
) -> None:
    """Load every weight, or say which do not fit.

    Raises:
        WeightsError: If the keys or the shapes are not the network's.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError:
        # smp gives keys of its older releases their new names, in the mapping itself; so what
        # is compared is what it could not place.
        wanted = model.state_dict()
        missing, unexpected = wanted.keys() - state.keys(), state.keys() - wanted.keys()
        shapes = {
            f"{key} is {tuple(state[key].shape)} for {tuple(wanted[key].shape)}"
            for key in wanted.keys() & state.keys()
            if state[key].shape != wanted[key].shape
        }
        kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
        faults = "; ".join(f"{len(k)} {kind} ({_some(k)})" for kind, k in kinds.items() if k)
        raise WeightsError(
            f"{checkpoint}: not the weights of {config.architecture} with {config.backbone}: "
            f"of its keys, {faults}. Fix tissue.unet.architecture and tissue.unet.backbone: they "
            "have to be those that it was trained with."
        ) from None


def _some(keys: set[str]) -> str:
    """The first few keys, and that there are more."""
    return ", ".join(sorted(keys)[:4]) + (", ..." if len(keys) > 4 else "")
