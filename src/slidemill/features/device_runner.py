"""Networks on a CPU, a CUDA device or another, batch by batch.

Knows tensors and numbers of tiles, no slides and no files. A batch takes tiles of several slides;
what comes back says whose they are. On CUDA copies, the network and the copies back overlap, and
the time in which the device had nothing to do is measured by its own events.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slidemill.features.batches import Batch, find_batch_size, is_out_of_memory
from slidemill.features.runners import Encoded, Piece
from slidemill.features.torch_encoder import TorchEncoder

log = logging.getLogger(__name__)
IN_FLIGHT = 2
"""Batches on a CUDA device whose features are still on their way."""


class DeviceRunner:
    """A network on its device; see `Runner`."""

    def __init__(
        self,
        encoder: TorchEncoder,
        *,
        device: str,
        precision: str,
        dtype: str,
        tile_px: int,
        batch_size: int | None,
        compiled: bool,
    ) -> None:
        """Put a network on its device.

        Args:
            encoder: The network.
            device: `cpu`, `cuda` or `mps`.
            precision: `fp32`, `fp16` or `bf16`.
            dtype: `float16` or `float32`, of the features.
            tile_px: Edge of the tiles, pixels.
            batch_size: Tiles a batch; None finds out.
            compiled: Whether to compile the network.
        """
        self.dim = encoder.dim
        self._device = torch.device(device)
        self._dtype = {"float16": torch.float16, "float32": torch.float32}[dtype]
        self._arithmetic = {
            "fp32": torch.float32,
            "fp16": torch.float16,
            "bf16": torch.bfloat16,
        }[precision]
        encoder = encoder.to(self._device)
        self._encoder: Callable[[Tensor], Any] = (
            torch.compile(encoder, dynamic=False) if compiled else encoder
        )
        self._whole = compiled
        if batch_size is None:
            batch_size = find_batch_size(self._run, tile_px, self._device)
            log.info("batches of %d tiles", batch_size)
        self.batch_size = batch_size
        stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        self._batches = [
            Batch(batch_size, tile_px, self._device, stream) for _ in range(2 if stream else 1)
        ]
        self._current = 0
        self._waited_s = 0.0
        self._under_way: deque[_Launched] = deque()
        self._last_end: torch.cuda.Event | None = None

    def feed(self, piece: Piece, waited_s: float) -> Iterator[Encoded]:
        """See `Runner.feed`."""
        self._waited_s += waited_s
        start, count = 0, len(piece.rows)
        while start < count:
            batch = self._batches[self._current]
            end = start + batch.put(piece.slide, piece.rows[start:], piece.pixels[start:])
            if end == count:
                batch.after_copy(piece.release)
            start = end
            if batch.is_full:
                yield from self._launch(batch)

    def flush(self) -> Iterator[Encoded]:
        """See `Runner.flush`."""
        batch = self._batches[self._current]
        if batch.count:
            yield from self._launch(batch)
        while self._under_way:
            yield from self._under_way.popleft().collect()

    def _launch(self, batch: Batch) -> Iterator[Encoded]:
        cuda = self._device.type == "cuda"
        batch.wait_for_copy()
        begin = end = None
        if cuda:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
        size = batch.size if self._whole else batch.count
        features, tokens, finite = self._run_in_parts(batch.tiles[:size], batch.count)
        if end is not None:
            end.record()
        launched = _Launched(
            batch.segments, features, tokens, finite, self._waited_s, self._last_end, begin, end
        )
        self._last_end, self._waited_s = end, 0.0
        batch.clear(end)
        self._current = (self._current + 1) % len(self._batches)
        self._under_way.append(launched)
        while len(self._under_way) > (IN_FLIGHT if cuda else 0):
            yield from self._under_way.popleft().collect()

    def _run_in_parts(self, tiles: Tensor, count: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """Encode a batch, in smaller ones where memory does not hold it."""
        while True:
            try:
                parts = [self._run(part) for part in tiles.split(self.batch_size)]
                break
            except RuntimeError as error:
                if not is_out_of_memory(error) or self.batch_size == 1:
                    raise
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            self.batch_size = max(1, self.batch_size // 2)
            log.warning("memory ran out: batches of %d tiles from now on", self.batch_size)
        features = torch.cat([part[0] for part in parts])[:count]
        tokens = (
            None
            if parts[0][1] is None
            else torch.cat([part[1] for part in parts if part[1] is not None])[:count]
        )
        finite = torch.isfinite(features).all(dim=1)
        if tokens is not None:
            finite &= torch.isfinite(tokens).flatten(1).all(dim=1)
        return _to_host(features), None if tokens is None else _to_host(tokens), _to_host(finite)

    def _run(self, tiles: Tensor) -> tuple[Tensor, Tensor | None]:
        reduced = self._arithmetic is not torch.float32
        with (
            torch.inference_mode(),
            torch.autocast(self._device.type, self._arithmetic, enabled=reduced),
        ):
            found = self._encoder(tiles)
            tokens = None if found.tokens is None else found.tokens.to(self._dtype)
            return found.features.to(self._dtype), tokens


@dataclass(frozen=True)
class _Launched:
    """A batch whose features may still be on their way to the host."""

    segments: list[tuple[int, npt.NDArray[np.int64]]]
    features: Tensor
    tokens: Tensor | None
    finite: Tensor
    waited_s: float
    before: "torch.cuda.Event | None"
    begin: "torch.cuda.Event | None"
    end: "torch.cuda.Event | None"

    def collect(self) -> Iterator[Encoded]:
        """Wait for them, and say whose they are."""
        idle_s = self.waited_s
        if self.begin is not None and self.end is not None:
            self.end.synchronize()
            # Gaps between batches, as the device saw them; before the first there is none.
            idle_s = self.before.elapsed_time(self.begin) / 1000 if self.before else self.waited_s
        features, finite = self.features.numpy(), self.finite.numpy()
        tokens = None if self.tokens is None else self.tokens.numpy()
        start = 0
        for slide, rows in self.segments:
            part = slice(start, start + len(rows))
            yield Encoded(
                slide,
                rows,
                features[part],
                None if tokens is None else tokens[part],
                finite[part],
                max(0.0, idle_s) if start == 0 else 0.0,
            )
            start += len(rows)


def _to_host(values: Tensor) -> Tensor:
    """Begin a copy to the host; from CUDA it goes on while the device works."""
    if values.device.type != "cuda":
        return values.cpu()
    found = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return found.copy_(values, non_blocking=True)
