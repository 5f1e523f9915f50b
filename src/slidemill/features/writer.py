"""The writer: a thread of its own that puts features into files while the encoder goes on.

Writes `<slide>.h5` by rows as they come; memory does not grow with a slide. A file gets its name
when its last row is there, so a killed job keeps every slide that was finished, and no half file. A
full disk or another fault of the machine is raised again in the thread that feeds it.
"""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from slidemill.artifacts.formats import FEATURES
from slidemill.artifacts.hdf5 import Attributes
from slidemill.artifacts.hdf5_stream import Hdf5Stream
from slidemill.artifacts.provenance import Stamp
from slidemill.features.engine import Done, Failed
from slidemill.features.runners import Encoded

QUEUE = 32
"""Pieces of work that may wait for the writer; bounds the memory."""


@dataclass(frozen=True)
class Target:
    """Where features of a slide go.

    Attributes:
        path: The file.
        stamp: Its provenance.
        coords: (N, 2) int64 corners of all its tiles, level-0 pixels.
        attributes: Attributes of the file, but for the number of tiles left out.
        coords_attributes: Attributes of its coordinates.
    """

    path: Path
    stamp: Stamp
    coords: npt.NDArray[np.int64]
    attributes: Attributes
    coords_attributes: Attributes


class FeatureWriter:
    """Writes slides' features; satisfies `engine.Sink`; a context manager.

    Leaving it normally waits until all is written; leaving it by an error leaves no half file.
    """

    def __init__(
        self,
        target: Callable[[int], Target],
        dtype: str,
        on_end: Callable[[Done | Failed], None],
    ) -> None:
        """Start the thread.

        Args:
            target: Where a slide goes, by its number.
            dtype: `float16` or `float32`.
            on_end: Called, by the writer's thread, when a slide's file is there or has failed.
        """
        self._target = target
        self._dtype = dtype
        self._on_end = on_end
        self._open: dict[int, Hdf5Stream] = {}
        self._queue: Queue[Callable[[], None] | None] = Queue(QUEUE)
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="feature-writer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        with ExitStack() as ends:
            # On a full disk an abort may raise; the others are done all the same.
            for stream in self._open.values():
                ends.callback(stream.abort)
        if self._fault is not None and error is None:
            raise self._fault

    def begin(self, slide: int, tiles: int, dim: int) -> None:
        """See `engine.Sink.begin`."""
        self._put(lambda: self._begin(slide, tiles, dim))

    def write(self, encoded: Encoded) -> None:
        """See `engine.Sink.write`."""
        self._put(lambda: self._write(encoded))

    def put_aside(self, slide: int) -> None:
        """See `engine.Sink.put_aside`."""
        self._put(lambda: self._drop(slide))

    def end(self, outcome: Done | Failed) -> None:
        """See `engine.Sink.end`."""
        self._put(lambda: self._end(outcome))

    def _put(self, work: Callable[[], None]) -> None:
        if self._fault is not None:
            raise self._fault
        self._queue.put(work)

    def _serve(self) -> None:
        while (work := self._queue.get()) is not None:
            if self._fault is not None:
                continue
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - raised again in the other thread
                self._fault = error

    def _begin(self, slide: int, tiles: int, dim: int) -> None:
        target = self._target(slide)
        stream = self._open[slide] = Hdf5Stream(target.path, FEATURES, target.stamp)
        stream.create("features", (tiles, dim), self._dtype)

    def _write(self, encoded: Encoded) -> None:
        stream = self._open[encoded.slide]
        # Tiles come in reading order; in the file they have the order of the coordinates.
        order = np.argsort(encoded.rows)
        rows = encoded.rows[order]
        stream.write("features", rows, encoded.features[order])
        if encoded.tokens is not None:
            if not stream.has("tokens"):
                count = len(self._target(encoded.slide).coords)
                stream.create("tokens", (count, *encoded.tokens.shape[1:]), self._dtype)
            stream.write("tokens", rows, encoded.tokens[order])

    def _drop(self, slide: int) -> None:
        stream = self._open.pop(slide, None)
        if stream is not None:
            stream.abort()

    def _end(self, outcome: Done | Failed) -> None:
        if isinstance(outcome, Failed):
            self._drop(outcome.slide)
        else:
            stream = self._open[outcome.slide]
            target = self._target(outcome.slide)
            stream.keep(outcome.sound)
            coords = target.coords[outcome.sound]
            stream.create("coords", coords.shape, np.int64)
            stream.write("coords", np.arange(len(coords)), coords)
            left_out = len(target.coords) - len(coords)
            stream.finish(
                {**target.attributes, "tiles_left_out": left_out},
                {"coords": target.coords_attributes},
            )
            del self._open[outcome.slide]
        self._on_end(outcome)
