"""A batch of tiles in a device's memory, and how large it may be.

Knows tensors, no slides. On CUDA tiles are copied by a stream of their own, from locked memory, so
that the next batch arrives while the device works on this one.
"""

from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slidemill.slides.reader import RGB

MAX_BATCH = 256
"""Beyond this no device is faster."""
CPU_BATCH = 16
"""On CPUs larger batches are slower: what passes between layers no longer stays in the caches."""
OTHER_BATCH = 32
"""Where memory cannot be asked for."""
SHARE = 0.7
"""Part of a device's free memory that a batch may take."""
COPIES = 2
"""Copies to a CUDA device whose source is not yet given back."""


class Batch:
    """Tiles on their way to a network.

    Attributes:
        size: Tiles that it holds.
        count: Tiles that are in it.
        tiles: (size, T, T, 3) uint8 on the device.
        segments: Slide and rows of the tiles, in order.
    """

    def __init__(
        self,
        size: int,
        tile_px: int,
        device: torch.device,
        stream: "torch.cuda.Stream | None" = None,
    ) -> None:
        """Take memory.

        Args:
            size: Tiles.
            tile_px: Edge of a tile, pixels.
            device: Where.
            stream: On CUDA, what copies; the same one for all batches, so that copies end in the
                order in which they were asked for, also those of a chunk that two batches share.
        """
        self.size = size
        self.count = 0
        self.tiles = torch.zeros((size, tile_px, tile_px, 3), dtype=torch.uint8, device=device)
        self.segments: list[tuple[int, npt.NDArray[np.int64]]] = []
        self._stream = stream
        # No copy may come before the memory has been cleared.
        self._used = torch.cuda.current_stream(device).record_event() if stream else None
        self._copies: deque[tuple[torch.cuda.Event, Callable[[], None]]] = deque()

    @property
    def is_full(self) -> bool:
        """Whether no tile fits any more."""
        return self.count == self.size

    def put(self, slide: int, rows: npt.NDArray[np.int64], pixels: RGB) -> int:
        """Copy tiles into the batch, as many as fit.

        Returns:
            How many did.
        """
        taken = min(len(rows), self.size - self.count)
        target = self.tiles[self.count : self.count + taken]
        source = torch.from_numpy(pixels[:taken])
        if self._stream is None:
            target.copy_(source)
        else:
            if self._used is not None:
                self._stream.wait_event(self._used)
                self._used = None
            with torch.cuda.stream(self._stream):
                target.copy_(source, non_blocking=True)
        self.segments.append((slide, rows[:taken]))
        self.count += taken
        return taken

    def after_copy(self, release: Callable[[], None]) -> None:
        """Call a function once what was put has been copied."""
        if self._stream is None:
            release()
            return
        event = torch.cuda.Event()
        event.record(self._stream)
        self._copies.append((event, release))
        while self._copies and (len(self._copies) > COPIES or self._copies[0][0].query()):
            event, done = self._copies.popleft()
            event.synchronize()
            done()

    def wait_for_copy(self) -> None:
        """Have the device work on the batch only when it is there."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)

    def clear(self, used: "torch.cuda.Event | None") -> None:
        """Make room for other tiles, which are not copied before the device is done with these."""
        self.count, self.segments = 0, []
        # Not waited for here: the copies to the next batch go by the same stream and need not wait.
        self._used = used


def find_batch_size(run: Callable[[Tensor], object], tile_px: int, device: torch.device) -> int:
    """Tiles a batch that a device's memory holds; a power of two.

    Args:
        run: Encodes (N, T, T, 3) uint8 tiles on the device.
        tile_px: Edge of a tile, pixels.
        device: The device.
    """
    if device.type != "cuda":
        return CPU_BATCH if device.type == "cpu" else OTHER_BATCH

    def peak(count: int) -> int:
        tiles = torch.zeros((count, tile_px, tile_px, 3), dtype=torch.uint8, device=device)
        torch.cuda.reset_peak_memory_stats(device)
        run(tiles)
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device))

    few, more = 8, 32
    try:
        peak(few)  # what is only needed once is there after this
        a_tile = max(1.0, (peak(more) - peak(few)) / (more - few))
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return few
    free, _ = torch.cuda.mem_get_info(device)
    fitting = int(SHARE * free / a_tile)
    return int(2 ** np.floor(np.log2(np.clip(fitting, 1, MAX_BATCH))))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the host, had too little memory."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in said for words in ("out of memory", "can't allocate memory")
    )
