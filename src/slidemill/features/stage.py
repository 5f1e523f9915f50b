"""The features stage: the kept tiles of every slide through one encoder.

Reads slides and tiles. Writes `slides/<slide>.h5` with `/features` and `/coords`, in the order of
the tiles, readable as it is by TRIDENT's and Patho-Bench's readers. A slide whose file is there
with the right digest is not encoded again.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slidemill.artifacts.folder import StageId
from slidemill.artifacts.hdf5 import open_hdf5
from slidemill.artifacts.manifest import SlideLoop, SlideTask
from slidemill.artifacts.parquet import Row, read_columns, read_footer
from slidemill.artifacts.workers import Lost
from slidemill.errors import ArtifactError
from slidemill.features.chunks import Source
from slidemill.features.copies import Copies
from slidemill.features.encoders import Encoder
from slidemill.features.progress import TileProgress
from slidemill.features.session import Session, Settings
from slidemill.slides.staging import scratch_folder
from slidemill.tiles.grid import Coords, TileGeometry
from slidemill.tiles.trident import level0_magnification, nominal_magnification

if TYPE_CHECKING:
    from slidemill.features.engine import Done, Failed, Work
    from slidemill.features.runners import Encoded
    from slidemill.features.writer import FeatureWriter, Target


class FeaturesRun:
    """One bucket of slides through the session's encoder."""

    def __init__(self, loop: SlideLoop, encoder: Encoder, settings: Settings, mpp: float) -> None:
        """Say what is to be done.

        Args:
            loop: The stage, its folder and its bookkeeping.
            encoder: The tile encoder.
            settings: How it is run.
            mpp: um per tile pixel that was asked for; a grid of magnifications gives others.
        """
        self._loop, self._encoder, self._settings, self._mpp = loop, encoder, settings, mpp
        self._tasks: list[SlideTask] = []
        self._tiles: dict[int, tuple[Coords, TileGeometry]] = {}
        self._rows: dict[str, Row] = {}
        self._copies: Copies | None = None
        self._progress: TileProgress | None = None
        self._total = 0

    def run(
        self,
        session: Session,
        slides: Sequence[Row],
        upstream: Sequence[Row],
        upstream_stage: StageId,
    ) -> list[Row]:
        """Encode what is not yet there, and return the manifest.

        Raises:
            OSError: If the disk is full, or fails.
        """
        self._rows, tasks = self._loop.prepare(slides, upstream, upstream_stage)
        self._total = len(slides)
        for task in tasks:
            row = self._loop.reused(task)
            if row is None:
                self._tasks.append(task)
            else:
                self._add(row)
        if self._tasks:
            self._encode(session, upstream)
        return [self._rows[str(facts["slide_id"])] for facts in slides]

    def _encode(self, session: Session, upstream: Sequence[Row]) -> None:
        from slidemill.features.writer import FeatureWriter

        wanted = {task.slide_id for task in self._tasks}
        tiles = sum(int(row["count"]) for row in upstream if row["slide_id"] in wanted)
        with (
            scratch_folder(self._loop.pace.stage_slides) as scratch,
            TileProgress(self._encoder.label, tiles) as self._progress,
            FeatureWriter(self._target, self._settings.dtype, self._ended) as writer,
            ExitStack() as ends,
        ):
            engine = session.engine(_Counted(writer, self._progress))
            if scratch is not None:
                facts = [task.facts for task in self._tasks]
                self._copies = Copies(scratch, facts, self._settings.seconds)
                ends.callback(self._copies.stop)
            engine.run(self._works())

    def _works(self) -> "Iterator[Work | None]":
        """The slides; None while the next is still being copied."""
        from slidemill.features.engine import Work

        for number, task in enumerate(self._tasks):
            assert task.upstream_path is not None
            coords, geometry = read_kept(task.upstream_path)
            self._tiles[number] = coords, geometry
            facts = task.facts
            path, seen = Path(facts["path"]), str(facts["fingerprint"])
            source = Source(path, facts["reader"], geometry, seen, scene=facts.get("scene"))
            copies, copy = self._copies, None
            if copies is not None:
                while not copies.is_ready():
                    yield None
                copy = copies.take()
            if copies is None or copy is None:
                yield Work(number, source, coords)
            else:
                release = partial(copies.remove, copy)
                yield Work(number, replace(source, copy=copy), coords, release)

    def _target(self, number: int) -> "Target":
        from slidemill.features.writer import Target

        task, (coords, geometry) = self._tasks[number], self._tiles[number]
        facts, encoder = task.facts, self._encoder
        mpp_x, mpp_y = float(facts["mpp_x"]), float(facts["mpp_y"])
        dimensions = int(facts["width"]), int(facts["height"])
        return Target(
            task.path,
            task.stamp,
            coords,
            {
                "encoder": encoder.spec.name,
                "weights_sha256": encoder.weights_sha256,
                "output": encoder.output,
                "precision": self._settings.precision,
                "mpp": geometry.mpp,
                "tile_px": geometry.tile_px,
                "mpp_x": mpp_x,
                "mpp_y": mpp_y,
                "step_x": geometry.step_x,
                "step_y": geometry.step_y,
            },
            trident_attributes(task.slide_id, geometry, self._mpp, mpp_x, dimensions),
        )

    def _ended(self, outcome: "Done | Failed") -> None:
        from slidemill.features.engine import Failed

        task = self._tasks[outcome.slide]
        self._tiles.pop(outcome.slide, None)
        if isinstance(outcome, Failed):
            error = outcome.error
            row = (
                self._loop.lost(task, error)
                if isinstance(error, Lost)
                else self._loop.failed(task, error, outcome.seconds)
            )
        else:
            count = len(outcome.sound)
            speed = count / outcome.seconds if outcome.seconds else 0.0
            row = self._loop.done(
                task, count, outcome.seconds, tiles_per_s=speed, waited=outcome.waited
            )
        self._add(row)

    def _add(self, row: Row) -> None:
        self._rows[row["slide_id"]] = row
        # People see the bar; what went wrong is said to them too.
        if row["status"] == "failed" or self._progress is None or not self._progress.is_shown:
            self._loop.tell(row, len(self._rows), self._total)


class _Counted:
    """A writer that also moves the bar; satisfies `engine.Sink`."""

    def __init__(self, writer: "FeatureWriter", progress: TileProgress) -> None:
        self._writer, self._progress = writer, progress
        self.begin, self.end = writer.begin, writer.end
        self._counts: Counter[int] = Counter()

    def write(self, encoded: "Encoded") -> None:
        self._writer.write(encoded)
        self._progress.add(len(encoded.rows))
        self._counts[encoded.slide] += len(encoded.rows)

    def put_aside(self, slide: int) -> None:
        self._writer.put_aside(slide)
        self._progress.add(-self._counts.pop(slide, 0))


def read_kept(path: Path) -> tuple[Coords, TileGeometry]:
    """Corners of the kept tiles of a slide, and their size.

    Raises:
        ArtifactError: If the file is missing, damaged, or of an unknown version.
    """
    columns = read_columns(path, "tiles")
    keep = columns["keep"].astype(bool)
    coords = np.stack([columns["x"][keep], columns["y"][keep]], axis=1)
    return coords, TileGeometry(**read_footer(path)["geometry"])


def trident_attributes(
    slide_id: str, geometry: TileGeometry, mpp: float, mpp_x: float, dimensions: tuple[int, int]
) -> dict[str, str | int | float]:
    """What TRIDENT writes on `coords`.

    Level 0 has the magnification of TRIDENT's table, or where that ends, the nearest to 10 / mpp;
    the tiles have the one that was asked for.
    """
    try:
        level0 = level0_magnification(mpp_x)
    except ValueError:
        level0 = max(1, round(10.0 / mpp_x))
    overlap = round(geometry.tile_px * (1.0 - geometry.step_x / geometry.width))
    return {
        "patch_size": geometry.tile_px,
        "patch_size_level0": round(geometry.width),
        "level0_magnification": level0,
        "target_magnification": nominal_magnification(mpp),
        "overlap": overlap,
        "name": slide_id,
        "savetodir": "",
        "level0_width": dimensions[0],
        "level0_height": dimensions[1],
    }


def read_stamp(path: Path, max_unreadable: float) -> dict[str, Any]:
    """The stamp of a finished slide, and its number of tiles as `count`.

    Args:
        path: The file.
        max_unreadable: Share of tiles left out above which it does not count as finished; the
            limit may have been another when it was written.

    Raises:
        ArtifactError: If the file is missing, not readable, or lacks too many tiles.
    """
    with open_hdf5(path, "features") as file:
        found = dict(file.attrs) | {"count": len(file["coords"])}
    left_out = int(found["tiles_left_out"])
    if left_out > max_unreadable * (found["count"] + left_out):
        raise ArtifactError(f"{path}: {left_out} tiles are left out. Run features again.")
    return found
