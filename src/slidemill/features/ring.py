"""Memory that readers and the encoder share: a ring of slots, each for one chunk of tiles.

Anonymous shared memory, made before the readers are forked: it has no name to leak, no limit of a
mounted file system, and goes with its last process.
"""

import ctypes
import logging
import mmap
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from slidemill.slides.reader import RGB

log = logging.getLogger(__name__)


@dataclass
class Ring:
    """Slots for tiles.

    Attributes:
        slots: Number of slots.
        tiles: Tiles that a slot holds.
        tile_px: Edge of a tile, pixels.
    """

    slots: int
    tiles: int
    tile_px: int
    _memory: mmap.mmap = field(init=False, repr=False)
    _free: deque[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._memory = mmap.mmap(-1, self.slots * self.slot_bytes)
        self._free = deque(range(self.slots))

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot."""
        return self.tiles * self.tile_px * self.tile_px * 3

    @property
    def has_free(self) -> bool:
        """Whether a slot can be taken."""
        return bool(self._free)

    def take(self) -> int:
        """A free slot; the caller has seen that there is one."""
        return self._free.popleft()

    def release(self, slot: int) -> None:
        """Give a slot back."""
        self._free.append(slot)

    def view(self, slot: int, tiles: int) -> RGB:
        """The first tiles of a slot, (tiles, tile_px, tile_px, 3) uint8, shared and not copied."""
        shape = (tiles, self.tile_px, self.tile_px, 3)
        flat = np.frombuffer(
            self._memory, np.uint8, count=int(np.prod(shape)), offset=slot * self.slot_bytes
        )
        return flat.reshape(shape)

    def pin(self) -> None:
        """Lock the memory for copies to a CUDA device that do not wait.

        Without the lock copies are right and slower, so a refusal is only said.
        """
        import torch

        length = self.slots * self.slot_bytes
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        code = torch.cuda.cudart().cudaHostRegister(address, length, 0)
        if int(code) != 0:
            log.warning("CUDA does not lock %d MB of memory (%s)", length >> 20, code)
