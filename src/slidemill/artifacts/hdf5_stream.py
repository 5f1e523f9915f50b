"""HDF5 artifacts that are written row by row, for results that need not fit in memory.

The file has a temporary name until `finish`, so a reader never sees half of one; `abort` leaves
nothing behind. Rows may come in any order.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slidemill.artifacts.atomic import atomic_path
from slidemill.artifacts.hdf5 import (
    Attributes,
    check_dtype,
    check_names,
    chunks_of,
    new_file,
    write_attributes,
)
from slidemill.artifacts.provenance import Stamp
from slidemill.artifacts.spec import ArtifactSpec

BLOCK_ROWS = 256
"""Rows that are moved at once when some are left out."""


class Hdf5Stream:
    """A file that is being written."""

    def __init__(self, path: Path, spec: ArtifactSpec, stamp: Stamp) -> None:
        """Begin a file under a temporary name."""
        self._path, self._spec, self._stamp = path, spec, stamp
        self._fields = {item.name: item for item in spec.fields}
        with ExitStack() as opened:
            temporary = opened.enter_context(atomic_path(path))
            self._file = opened.enter_context(new_file(temporary))
            # Nothing failed: both stay open until `finish` or `abort`.
            self._written = opened.pop_all()

    def create(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        """Make a dataset; its first axis may be cut later.

        Raises:
            ArtifactError: If the format has no such numbers.
        """
        item = self._fields[name]
        check_dtype(item, dtype)
        chunks = chunks_of(item, shape)
        self._file.create_dataset(
            name,
            shape,
            np.dtype(dtype),
            chunks=chunks,
            maxshape=(None, *shape[1:]) if chunks else None,
            track_times=False,
        )

    def has(self, name: str) -> bool:
        """Whether a dataset has been made."""
        return name in self._file

    def write(self, name: str, rows: npt.NDArray[np.int64], values: npt.NDArray[Any]) -> None:
        """Write rows of a dataset.

        Args:
            name: The dataset.
            rows: (n,) numbers of rows; runs of following numbers are written at once.
            values: (n, ...) their values.

        """
        if not len(rows):
            return
        dataset = self._file[name]
        ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        start = 0
        for end in ends:
            first = int(rows[start])
            dataset[first : first + end - start] = values[start:end]
            start = end

    def keep(self, rows: npt.NDArray[np.int64]) -> None:
        """Leave out all rows but these, in ascending order, of every dataset."""
        for dataset in self._file.values():
            if len(rows) == len(dataset):
                continue
            for start in range(0, len(rows), BLOCK_ROWS):
                part = rows[start : start + BLOCK_ROWS]
                # Rows only move up, so none is overwritten before it was read.
                values = dataset[int(part[0]) : int(part[-1]) + 1][part - part[0]]
                dataset[start : start + len(part)] = values
            dataset.resize(len(rows), axis=0)

    def finish(
        self,
        attributes: Attributes,
        dataset_attributes: Mapping[str, Attributes] | None = None,
    ) -> None:
        """Write the attributes, and give the file its name.

        Raises:
            ArtifactError: If datasets or attributes are not those of the format.
            OSError: If the disk is full, or fails.
        """
        try:
            check_names(self._path, self._spec, self._file, attributes)
            write_attributes(self._file, self._spec, self._stamp, attributes)
            for name, values in (dataset_attributes or {}).items():
                for key, value in values.items():
                    self._file[name].attrs[key] = value
        except BaseException:
            self.abort()
            raise
        # Closes the file, and renames it if that went well.
        self._written.close()

    def abort(self) -> None:
        """Leave nothing behind."""
        self._written.__exit__(_Aborted, _Aborted(), None)


class _Aborted(Exception):  # noqa: N818 - no error: it tells `atomic_path` to remove its file
    pass
