"""HDF5 artifacts: arrays with their provenance in the file's attributes.

Files are written whole and without times in them, so the same inputs give the same bytes; they are
opened without HDF5's own locks, which shared file systems often refuse.
"""

from collections.abc import Mapping
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
    wanted = [item.name for item in spec.fields]
    named = [name for name, _ in spec.attributes]
    if sorted(arrays) != sorted(wanted) or sorted(attributes or {}) != sorted(named):
        raise ArtifactError(
            f"{path}: a {spec.type} has datasets {wanted} and attributes {named}, not "
            f"{sorted(arrays)} and {sorted(attributes or {})}. "
            "This is a fault of slidemill: please report it."
        )
    with atomic_path(path) as temporary, h5py.File(temporary, "w", locking=False) as file:
        file.attrs.update(stamp.as_attributes(spec.type, spec.version))
        file.attrs.update({key: (attributes or {})[key] for key in named})
        for item in spec.fields:
            _write_dataset(file, item, np.asarray(arrays[item.name]))
            for key, value in (dataset_attributes or {}).get(item.name, {}).items():
                file[item.name].attrs[key] = value


def _write_dataset(file: h5py.File, item: Field, array: npt.NDArray[Any]) -> None:
    if array.dtype != np.dtype(item.dtype):
        raise ArtifactError(
            f"dataset {item.name} has to be {item.dtype}, not {array.dtype}. "
            "This is a fault of slidemill: please report it."
        )
    chunks = None
    if item.chunks is not None and array.size:
        # A 0 in the format means the whole axis; a chunk is never longer than its axis.
        chunks = tuple(min(c or n, n) for c, n in zip(item.chunks, array.shape, strict=True))
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
    absent = [item.name for item in spec.fields if item.name not in file]
    if absent:
        file.close()
        raise ArtifactError(
            f"{path}: datasets {absent} are missing. Delete the file and run again."
        )
    return file
