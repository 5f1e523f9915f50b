"""The state of a training on disk: what a run that was killed goes on from.

Reads and writes one safetensors file, atomically, beside the checkpoint to be. It goes on only
with the training that wrote it: the file names what it was made from. Nothing is unpickled.
"""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from slidemill.artifacts.atomic import atomic_path
from slidemill.artifacts.provenance import Stamp
from slidemill.pretrain.snapshot import TrainingState

KEY = "slidemill"
VERSION = 1

log = logging.getLogger(__name__)


class StateFile:
    """The file that holds the state of one training.

    Args:
        path: Where it is.
        stamp: What the training is made from.
        minutes: Time between two states at least.
    """

    def __init__(self, path: Path, stamp: Stamp, minutes: float) -> None:
        self._path, self._digest, self._seconds = path, stamp.item_digest, 60.0 * minutes
        self._last = time.monotonic()

    def load(self, not_before: float) -> TrainingState | None:
        """The state that is there, if it is of this training and not older than it may be.

        A file that is of another training, or that cannot be read, is told of and left alone until
        the next state takes its place: the training starts from its first step.
        """
        if not self._path.is_file() or self._path.stat().st_mtime < not_before:
            return None
        try:
            with safe_open(self._path, framework="pt") as file:
                meta = json.loads((file.metadata() or {}).get(KEY, "{}"))
                if (meta.get("version"), meta.get("item_digest")) != (VERSION, self._digest):
                    log.warning("%s: of another training; starting from step 0", self._path)
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metrics = tensors.pop("metrics").tolist()
            state = TrainingState(meta["step"], meta["seconds"], tensors, metrics, meta["watch"])
        except Exception as error:  # noqa: BLE001 - safetensors raises kinds of its own
            log.warning("%s: not readable (%s); starting from step 0", self._path, error)
            return None
        log.info("going on from step %d", state.step)
        return state

    def keep(self, step: int, state: Callable[[], TrainingState]) -> None:
        """Write the state, if the last one is old enough."""
        if time.monotonic() - self._last >= self._seconds:
            self.write(state())

    def write(self, state: TrainingState) -> None:
        """Write a state."""
        meta = {
            "version": VERSION,
            "item_digest": self._digest,
            "step": state.step,
            "seconds": state.seconds,
            "watch": state.watch,
        }
        # float64 keeps every bit of the metrics, so that a run that went on has the same table.
        tensors = state.tensors | {"metrics": torch.tensor(state.metrics, dtype=torch.float64)}
        with atomic_path(self._path) as temporary:
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()},
                temporary,
                {KEY: json.dumps(meta, sort_keys=True)},
            )
        self._last = time.monotonic()

    def remove(self) -> None:
        """Remove the file: its training is done."""
        self._path.unlink(missing_ok=True)
