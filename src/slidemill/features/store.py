"""Features of a cohort, read when they are asked for.

A view on one encoder's results for training and evaluation; it keeps what fits in memory, so that
small cohorts are read once and large ones slide by slide.
"""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from slidemill.artifacts.hdf5 import open_hdf5
from slidemill.errors import CohortError

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

CACHE_BYTES = 2 << 30
"""Features that are kept in memory."""


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
        self._kept: OrderedDict[int, npt.NDArray[np.floating]] = OrderedDict()
        self._bytes = 0
        with open_hdf5(self._paths[0], "features") as file:
            self.dim = int(file["features"].shape[1])

    def __len__(self) -> int:
        return len(self.slide_ids)

    def coords(self, i: int) -> Int64Array:
        """Top-left corners of slide i's tiles, int64 (N, 2), level-0 pixels."""
        with open_hdf5(self._paths[i], "features") as file:
            coords: Int64Array = file["coords"][:]
            return coords

    def step(self, i: int) -> tuple[float, float]:
        """Distance of neighbouring tiles of slide i in x and y, level-0 pixels."""
        with open_hdf5(self._paths[i], "features") as file:
            return float(file.attrs["step_x"]), float(file.attrs["step_y"])

    def features(self, i: int, rows: Int64Array | None = None) -> Float32Array:
        """Features of slide i's tiles, float32 (N, D), or of those rows."""
        kept = self._kept.get(i)
        if kept is None:
            kept = self.stored(i)
            self._kept[i] = kept
            self._bytes += kept.nbytes
            while self._bytes > CACHE_BYTES:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        else:
            self._kept.move_to_end(i)
        return (kept if rows is None else kept[rows]).astype(np.float32, copy=False)

    def stored(self, i: int) -> npt.NDArray[np.floating]:
        """Features of slide i's tiles as the file has them, float32 or float16 (N, D); not kept."""
        with open_hdf5(self._paths[i], "features") as file:
            found: npt.NDArray[np.floating] = file["features"][:]
            return found

    def subset(self, slide_ids: set[str]) -> list[int]:
        """Indices of those slides that have features."""
        return [i for i, slide_id in enumerate(self.slide_ids) if slide_id in slide_ids]
