"""Features of a cohort, read when they are asked for.

A view on one encoder's results for training and evaluation. Whole slides are kept as far as they
fit in memory, so that small cohorts are read once and large ones slide by slide. Single rows are
read from the file alone: bytes of other rows only where that is faster. May be used by several
threads. Features of two encoders in one folder are refused when the second one's file is opened.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd

from slidemill.artifacts.hdf5 import open_hdf5
from slidemill.errors import CohortError

Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.floating]
Int64Array = npt.NDArray[np.int64]

CACHE_BYTES = 2 << 30
"""Features that are kept in memory."""

NEAR_ROWS = 8
"""Rows asked for that are at most so many apart are read in one piece, with what lies between: a
request costs about as much time as that many rows."""


@dataclass(frozen=True)
class _Facts:
    """What the file of a slide says of all its tiles."""

    encoder: str
    weights: str
    dim: int
    step: tuple[float, float]
    mpp: tuple[float, float]


class FeatureStore:
    """Features of slides by index; satisfies `pretrain.bags.BagSource`.

    Attributes:
        slide_ids: The slides that have features, in the manifest's order.
        item_digests: Digest of each slide's features.
        dim: Length of a feature.
    """

    def __init__(self, folder: Path, manifest: pd.DataFrame) -> None:
        """Look at a features folder.

        Args:
            folder: The stage's folder.
            manifest: Its manifest, or some rows of it; failed rows are passed over.

        Raises:
            CohortError: If no slide has features.
        """
        done = manifest[manifest["status"] == "ok"]
        if done.empty:
            raise CohortError(f"{folder}: no slide has features. See manifest.parquet for why.")
        self.slide_ids: list[str] = [str(value) for value in done["slide_id"]]
        self.item_digests: list[str] = [str(value) for value in done["item_digest"]]
        self._paths = [folder / str(path) for path in done["path"]]
        self._kept: OrderedDict[int, FloatArray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._facts: dict[int, _Facts] = {}
        self.dim = self._facts_of(0).dim

    def __len__(self) -> int:
        return len(self.slide_ids)

    def coords(self, i: int) -> Int64Array:
        """Top-left corners of slide i's tiles, int64 (N, 2), level-0 pixels."""
        with self._open(i) as file:
            coords: Int64Array = file["coords"][:]
            return coords

    def step(self, i: int) -> tuple[float, float]:
        """Distance of neighbouring tiles of slide i in x and y, level-0 pixels."""
        return self._facts_of(i).step

    def step_um(self, i: int) -> tuple[float, float]:
        """Distance of neighbouring tiles of slide i in x and y, micrometres."""
        facts = self._facts_of(i)
        return facts.step[0] * facts.mpp[0], facts.step[1] * facts.mpp[1]

    @overload
    def features(self, i: int) -> Float32Array: ...

    @overload
    def features(self, i: int, rows: Int64Array | None = None) -> FloatArray: ...

    def features(self, i: int, rows: Int64Array | None = None) -> FloatArray:
        """Features of slide i's tiles.

        Args:
            i: The slide.
            rows: Some of its tiles, in any order. They are taken from memory if the whole slide is
                there, and else read from the file, which then is not kept.

        Returns:
            Without rows: of all tiles, float32 (N, D), kept in memory as far as that goes. With
            rows: of those, (len(rows), D), float16 or float32 as the file has them.

        Raises:
            CohortError: If they are of another encoder than those of the first slide.
            IndexError: If a row is not there.
        """
        with self._lock:
            kept = self._kept.get(i)
            if kept is not None:
                self._kept.move_to_end(i)
        if rows is not None:
            return self._rows(i, rows) if kept is None else kept[rows]
        return self._keep(i, self.stored(i) if kept is None else kept).astype(
            np.float32, copy=False
        )

    def stored(self, i: int) -> FloatArray:
        """Features of slide i's tiles as the file has them, float32 or float16 (N, D); not kept."""
        with self._open(i) as file:
            found: FloatArray = file["features"][:]
            return found

    def subset(self, slide_ids: set[str]) -> list[int]:
        """Indices of those slides that have features."""
        return [i for i, slide_id in enumerate(self.slide_ids) if slide_id in slide_ids]

    def check_encoder(self) -> None:
        """Open every file, so that features of two encoders are found before work begins.

        Raises:
            CohortError: If there are such.
        """
        for i in range(len(self)):
            self._facts_of(i)

    def _open(self, i: int) -> h5py.File:
        """Open a slide's file; the first time, see that it is of the store's encoder."""
        file = open_hdf5(self._paths[i], "features")
        try:
            if i not in self._facts:
                self._facts[i] = self._checked(i, _read_facts(file))
        except BaseException:
            file.close()
            raise
        return file

    def _facts_of(self, i: int) -> _Facts:
        if i not in self._facts:
            self._open(i).close()
        return self._facts[i]

    def _checked(self, i: int, found: _Facts) -> _Facts:
        """Facts of a slide, if they are of the first slide's encoder."""
        first = found if i == 0 else self._facts[0]
        if (found.encoder, found.weights, found.dim) != (first.encoder, first.weights, first.dim):
            raise CohortError(
                f"{self._paths[i].parent}: features of two encoders are mixed: slide "
                f"{self.slide_ids[0]} has {_named(first)}, slide {self.slide_ids[i]} has "
                f"{_named(found)}. Delete the files that are not of this run's encoder and compute "
                "them again."
            )
        return found

    def _rows(self, i: int, rows: Int64Array) -> FloatArray:
        """Read rows of a slide's file, by runs of near ones."""
        ordered = rows if np.all(np.diff(rows) > 0) else np.unique(rows)
        with self._open(i) as file:
            data = _without_cache(file)
            out = np.empty((len(ordered), data.shape[1]), data.dtype)
            if len(ordered) and (ordered[0] < 0 or ordered[-1] >= len(data)):
                raise IndexError(f"{self._paths[i]}: rows are 0 to {len(data) - 1}")
            cuts = (np.flatnonzero(np.diff(ordered) > NEAR_ROWS) + 1).tolist()
            for start, stop in zip([0, *cuts], [*cuts, len(ordered)], strict=True):
                if start == stop:
                    continue
                run = ordered[start:stop]
                first, count = int(run[0]), int(run[-1] - run[0]) + 1
                if count == len(run):
                    data.read_direct(out, np.s_[first : first + count], np.s_[start:stop])
                else:
                    out[start:stop] = data[first : first + count][run - first]
        return out if ordered is rows else out[np.searchsorted(ordered, rows)]

    def _keep(self, i: int, found: FloatArray) -> FloatArray:
        """Keep a whole slide in memory; those that nobody asked for longest have to leave."""
        with self._lock:
            if i not in self._kept:
                self._kept[i] = found
                self._bytes += found.nbytes
                while self._bytes > CACHE_BYTES:
                    self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return found


def _read_facts(file: h5py.File) -> _Facts:
    attributes = file.attrs
    return _Facts(
        encoder=str(attributes["encoder"]),
        weights=str(attributes["weights_sha256"]),
        dim=int(file["features"].shape[1]),
        step=(float(attributes["step_x"]), float(attributes["step_y"])),
        mpp=(float(attributes["mpp_x"]), float(attributes["mpp_y"])),
    )


def _named(facts: _Facts) -> str:
    weights = f" (weights {facts.weights[:12]})" if facts.weights else ""
    return f"{facts.dim} features of {facts.encoder}{weights}"


def _without_cache(file: h5py.File) -> h5py.Dataset:
    """The features without HDF5's cache of chunks.

    With it every chunk that has one of the rows is read whole, which is ten times as many bytes
    for a crop of 144 tiles. Chunks are not compressed, so nothing is computed twice without it.
    """
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_chunk_cache(1, 0, 1.0)
    return h5py.Dataset(h5py.h5d.open(file.id, b"features", access))
