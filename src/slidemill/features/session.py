"""What a features job holds while it lasts: readers, an encoder on its device, memory between them.

All of it is made when the first slide needs it, readers first, and lives through every bucket of
the job.
"""

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from slidemill.features.encoders import Encoder
from slidemill.features.pool import Crew, ReaderPool
from slidemill.features.ring import Ring

if TYPE_CHECKING:
    from slidemill.features.engine import Engine, Sink
    from slidemill.features.runners import Runner

log = logging.getLogger(__name__)

CHUNK_TILES = 32
"""Tiles that are read together at most."""
CHUNK_BYTES = 8 * 2**20
"""Pixels that are read together at most, bytes."""
PROCESSES = 16
"""Readers at most; with more CPUs each has several threads. A process a CPU reads 5 to 15 % more
than threads, which wait for each other in the interpreter, and takes about 50 MB."""
NICE = 10
"""How far readers step back where the network runs on the same CPUs: they need little of them, and
a network's threads wait for the slowest one."""


@dataclass(frozen=True)
class Settings:
    """How an encoder is run; but for the first three, nothing that changes results.

    Attributes:
        precision: `fp32`, `fp16` or `bf16`.
        dtype: `float16` or `float32`, of the features.
        tokens: Whether patch tokens are kept.
        tile_px: Edge of the tiles, pixels.
        batch_size: Tiles a batch; None finds out.
        compiled: Whether networks are compiled.
        device: `auto`, `cpu`, `cuda` or `mps`.
        cpus: CPUs of the job.
        seconds: Wall time after which a chunk of a slide is given up.
        max_unreadable: A slide of which more than this share of tiles does not decode has failed.
    """

    precision: str
    dtype: str
    tokens: bool
    tile_px: int
    batch_size: int | None = None
    compiled: bool = False
    device: str = "auto"
    cpus: int = 1
    seconds: float = 1800.0
    max_unreadable: float = 0.1


class Session:
    """Readers and an encoder for one job; a context manager."""

    def __init__(self, encoder: Encoder, settings: Settings) -> None:
        self._encoder = encoder
        self._settings = settings
        self._opened = ExitStack()
        self._made: tuple[Ring, ReaderPool, Runner] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.close()

    def engine(self, sink: "Sink") -> "Engine":
        """An engine whose features go to `sink`.

        Raises:
            ConfigError: If the device is not there, or the encoder cannot be built.
            WeightsError: If the weights do not fit.
        """
        from slidemill.features.engine import Engine

        if self._made is None:
            self._made = self._make()
        ring, pool, runner = self._made
        return Engine(ring, pool, runner, sink, self._settings.max_unreadable)

    @property
    def batch_size(self) -> int | None:
        """Tiles a batch of a network; None before there is one, and for other encoders."""
        return getattr(self._made[2], "batch_size", None) if self._made else None

    def _make(self) -> "tuple[Ring, ReaderPool, Runner]":
        settings = self._settings
        crew = crew_of(settings, self._encoder)
        ring = ring_of(settings.tile_px, crew)
        pool = self._opened.enter_context(ReaderPool(ring, crew))
        # The readers are there: now torch may be imported and start its threads.
        from slidemill.features.build import HostEncoder, build
        from slidemill.features.runners import HostRunner

        built = build(self._encoder, tokens=settings.tokens)
        if isinstance(built, HostEncoder):
            return ring, pool, HostRunner(built, settings.dtype)
        built.check(settings.tile_px)
        import torch

        from slidemill.device import choose_device
        from slidemill.features.device_runner import DeviceRunner

        device = choose_device(settings.device)
        torch.set_num_threads(settings.cpus)
        if device == "cpu":
            if settings.precision == "fp16":
                log.warning(
                    "fp16 is slow on a CPU; features.precision: bf16 or fp32 is faster, and "
                    "another result"
                )
        elif device.startswith("cuda"):
            torch.cuda.set_device(device)
            ring.pin()
        runner = DeviceRunner(
            built,
            device=device,
            precision=settings.precision,
            dtype=settings.dtype,
            tile_px=settings.tile_px,
            batch_size=settings.batch_size,
            compiled=settings.compiled,
        )
        return ring, pool, runner


def crew_of(settings: Settings, encoder: Encoder) -> Crew:
    """Readers for a number of CPUs."""
    processes = min(settings.cpus, PROCESSES)
    shares_cpus = encoder.spec.needs_weights and settings.device in ("auto", "cpu")
    return Crew(
        processes=processes,
        threads=-(-settings.cpus // processes),
        seconds=settings.seconds,
        nice=NICE if shares_cpus else 0,
    )


def ring_of(tile_px: int, crew: Crew) -> Ring:
    """Memory for what a crew reads ahead: twice what it has in hand."""
    tiles = max(1, min(CHUNK_TILES, CHUNK_BYTES // (tile_px * tile_px * 3)))
    return Ring(2 * crew.processes * (crew.threads + 1) + 4, tiles, tile_px)
