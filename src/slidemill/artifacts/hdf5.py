"""HDF5 artifacts: arrays with their provenance in the file's attributes.

Files are written whole and without times in them, so the same inputs give the same bytes; they are
opened without HDF5's own locks, which shared file systems often refuse.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from slidemill.artifacts import formats  # noqa: F401 - fills the registry
from slidemill.artifacts.atomic import atomic_path
from slidemill.artifacts.provenance import Stamp
from slidemill.artifacts.spec import ArtifactSpec, Field, find_spec
from slidemill.errors import ArtifactError

Attributes = Mapping[str, str | int | float]
GZIP_LEVEL = 1
"""Masks shrink a hundredfold already; more takes three times as long for little."""


def write_hdf5(
    path: Path,
    arrays: Mapping[str, npt.NDArray[Any]],
    spec: ArtifactSpec,
    stamp: Stamp,
    attributes: Attributes | None = None,
    dataset_attributes: Mapping[str, Attributes] | None = None,
) -> None:
    """Write arrays in a format, atomically.

    Args:
        path: Where to.
        arrays: One array for every field of the format.
        spec: The format.
        stamp: The provenance.
        attributes: Values for the format's own attributes.
        dataset_attributes: Attributes of single datasets.

    Raises:
        ArtifactError: If arrays or attributes are not those of the format.
    """
    check_names(path, spec, arrays, attributes or {})
    with atomic_path(path) as temporary, new_file(temporary) as file:
        write_attributes(file, spec, stamp, attributes or {})
        for item in spec.fields:
            if item.name in arrays:
                _write_dataset(file, item, np.asarray(arrays[item.name]))
            for key, value in (dataset_attributes or {}).get(item.name, {}).items():
                file[item.name].attrs[key] = value


@contextmanager
def new_file(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to write; all of it has been given to the system when the block is left.

    Raises:
        OSError: If the disk is full, or fails.
    """
    with _Forgiving(path, "w+b") as stream:
        file = h5py.File(stream, "w")
        try:
            yield file
        finally:
            file.close()
            if stream.fault is not None:
                raise stream.fault


class _Forgiving(FileIO):
    """A file that keeps its first fault to itself.

    After a write that fails, on a full disk for instance, HDF5 is in a state in which it neither
    closes the file nor lets the process end without a crash. So it is not told; `new_file` is.
    """

    fault: OSError | None = None

    def write(self, data: Any) -> int:  # noqa: ANN401 - any buffer
        rest = memoryview(data)
        try:
            # The system may take less than it is given.
            while self.fault is None and len(rest):
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.fault = error
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.fault = self.fault or error
            return self.tell()


def check_names(
    path: Path, spec: ArtifactSpec, arrays: Iterable[str], attributes: Iterable[str]
) -> None:
    """Refuse datasets and attributes that are not those of the format.

    Raises:
        ArtifactError: With what is there and what should be.
    """
    wanted = [item.name for item in spec.fields]
    needed = {item.name for item in spec.fields if not item.optional}
    named = [name for name, _ in spec.attributes]
    given = set(arrays)
    if not needed <= given <= set(wanted) or sorted(attributes) != sorted(named):
        raise ArtifactError(
            f"{path}: a {spec.type} has datasets {wanted} and attributes {named}, not "
            f"{sorted(given)} and {sorted(attributes)}. "
            "This is a fault of slidemill: please report it."
        )


def write_attributes(
    file: h5py.File, spec: ArtifactSpec, stamp: Stamp, attributes: Attributes
) -> None:
    """Write the provenance and the format's own attributes."""
    file.attrs.update(stamp.as_attributes(spec.type, spec.version))
    file.attrs.update({key: attributes[key] for key, _ in spec.attributes})


def chunks_of(item: Field, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Chunk shape of a dataset: a 0 in the format means the whole axis, and none is longer."""
    if item.chunks is None or 0 in shape:
        return None
    return tuple(min(c or n, n) for c, n in zip(item.chunks, shape, strict=True))


def check_dtype(item: Field, dtype: npt.DTypeLike) -> None:
    """Refuse numbers of a kind that the format does not have.

    Raises:
        ArtifactError: With both.
    """
    if np.dtype(dtype).name not in (item.dtype, *item.also):
        raise ArtifactError(
            f"dataset {item.name} has to be {item.dtype}, not {np.dtype(dtype)}. "
            "This is a fault of slidemill: please report it."
        )


def _write_dataset(file: h5py.File, item: Field, array: npt.NDArray[Any]) -> None:
    check_dtype(item, array.dtype)
    chunks = chunks_of(item, array.shape)
    file.create_dataset(
        item.name,
        data=array,
        chunks=chunks,
        compression="gzip" if item.compressed and chunks else None,
        compression_opts=GZIP_LEVEL if item.compressed and chunks else None,
        track_times=False,
    )


def read_attributes(path: Path) -> dict[str, Any]:
    """All attributes of the file, the stamp among them.

    Raises:
        ArtifactError: If the file is missing, damaged, or not of slidemill.
    """
    with open_hdf5(path) as file:
        return dict(file.attrs)


def open_hdf5(path: Path, artifact_type: str | None = None) -> h5py.File:
    """Open an artifact for reading, after checking its type and version.

    Raises:
        ArtifactError: If it is missing, damaged, of another type or of an unknown version.
    """
    try:
        file = h5py.File(path, "r", locking=False)
    except FileNotFoundError:
        raise ArtifactError(
            f"{path}: there is no such file. Run the stage that makes it."
        ) from None
    except OSError as error:
        raise ArtifactError(
            f"{path}: not readable as HDF5 ({error}). Delete it and run again."
        ) from error
    found = file.attrs.get("artifact_type")
    if found is None or (artifact_type is not None and found != artifact_type):
        file.close()
        raise ArtifactError(
            f"{path}: a {artifact_type or 'slidemill'} file is needed, this is "
            f"{'a ' + str(found) if found else 'no artifact of ours'}. Give the right file."
        )
    spec = find_spec(str(found), int(file.attrs["artifact_version"]), path)
    absent = [i.name for i in spec.fields if not i.optional and i.name not in file]
    if absent:
        file.close()
        raise ArtifactError(
            f"{path}: datasets {absent} are missing. Delete the file and run again."
        )
    return file
