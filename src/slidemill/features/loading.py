"""Weights of a file into a network: safely, strictly, and never random ones instead.

Files are read from safetensors, or with `weights_only=True`, so that nothing in them is run. Every
weight of the network has to be in the file and nothing else may be: a key too few or too many, or
of another shape, is an error.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from slidemill.errors import WeightsError

WRAPPERS = ("state_dict", "model", "teacher")
"""Keys under which checkpoints of training runs keep the state dict itself."""
_SHOWN = 3


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict without running any code that may be in the file.

    Args:
        path: safetensors, or what `torch.save` made of a state dict; one that lies under
            `state_dict`, `model` or `teacher` is taken out.

    Returns:
        Names and tensors, on the CPU.

    Raises:
        WeightsError: If the file holds no state dict, or only by running code.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch and safetensors raise kinds of their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path}: not readable as safe weights ({reason}).") from None
    for key in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), Mapping):
            state = state[key]
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(value, Tensor) for value in state.values())
    ):
        raise WeightsError(f"{path}: it holds no state dict of tensors. Save one, as safetensors.")
    return {str(key): value for key, value in state.items()}


def load_strictly(body: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put weights into a network that may have been built on `meta`.

    Floating point weights become float32; the tensors are taken, not copied.

    Args:
        body: The network; its state dict names what is wanted.
        state: The weights under the network's names.
        path: The file, for messages.

    Raises:
        WeightsError: If names or shapes are not those of the network.
    """
    wanted = body.state_dict()
    missing, unexpected = sorted(wanted.keys() - state), sorted(state.keys() - wanted)
    # Counters of batches have no part in features; old files lack them.
    counters = [key for key in missing if re.search(r"(^|\.)num_batches_tracked$", key)]
    missing = [key for key in missing if key not in counters]
    if missing or unexpected:
        raise WeightsError(
            f"{path}: not the weights of this encoder: {_count(missing, 'missing')}, "
            f"{_count(unexpected, 'unexpected')}."
        )
    misshapen = [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    if misshapen:
        more = f" and {len(misshapen) - _SHOWN} more" if len(misshapen) > _SHOWN else ""
        raise WeightsError(
            f"{path}: not the weights of this encoder: {len(misshapen)} of another shape: "
            f"{'; '.join(misshapen[:_SHOWN])}{more}."
        )
    given = {
        key: value.float() if value.is_floating_point() else value for key, value in state.items()
    }
    given |= {key: torch.zeros_like(wanted[key], device="cpu") for key in counters}
    body.load_state_dict(given, strict=True, assign=True)


def is_whole(network: nn.Module) -> bool:
    """Whether every tensor of a network has values: none is left on `meta`."""
    plain = (value for module in network.modules() for value in vars(module).values())
    tensors = [*network.parameters(), *network.buffers()]
    tensors += [value for value in plain if isinstance(value, Tensor)]
    return not any(tensor.is_meta for tensor in tensors)


def _count(names: list[str], what: str) -> str:
    if not names:
        return f"0 keys are {what}"
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{len(names)} key{'s are' if len(names) > 1 else ' is'} {what} ({shown})"
