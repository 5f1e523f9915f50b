"""The registry of artifact formats: one `ArtifactSpec` per (type, version).

Writers write the newest version of a type, readers accept every version that is registered, and an
unknown one is an error that names what to install. `docs/formats.md` is generated from here.
"""

from dataclasses import dataclass
from typing import Literal

from slidemill.errors import ArtifactError

Container = Literal["parquet", "hdf5"]


@dataclass(frozen=True)
class Field:
    """A column of a table or a dataset of an HDF5 file.

    Attributes:
        name: Its name.
        dtype: A numpy dtype name, or `str`.
        meaning: What is in it, with its unit.
        shape: Shape in words, for HDF5 datasets; empty for columns.
        nullable: Whether values of a column may be missing.
        chunks: Chunk shape of an HDF5 dataset; None for a contiguous one.
        compressed: Whether an HDF5 dataset is compressed (gzip).
        also: Other dtypes that the values may have, by choice of the configuration.
        optional: Whether an HDF5 dataset may be absent.
    """

    name: str
    dtype: str
    meaning: str
    shape: str = ""
    nullable: bool = False
    chunks: tuple[int, ...] | None = None
    compressed: bool = False
    also: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True)
class ArtifactSpec:
    """Format of one type of artifact in one version.

    Attributes:
        type: Its name.
        version: Its format version, raised when a reader of the old one would go wrong.
        container: The file format.
        doc: What the artifact is.
        fields: Columns or datasets, in order.
        open_columns: Whether further text columns (labels) may follow.
        attributes: Names and meanings of HDF5 attributes beyond the provenance.
    """

    type: str
    version: int
    container: Container
    doc: str
    fields: tuple[Field, ...]
    open_columns: bool = False
    attributes: tuple[tuple[str, str], ...] = ()


_REGISTRY: dict[tuple[str, int], ArtifactSpec] = {}


def register(spec: ArtifactSpec) -> ArtifactSpec:
    """Add a format to the registry.

    Raises:
        ValueError: If the type is registered in that version already.
    """
    key = (spec.type, spec.version)
    if key in _REGISTRY:
        raise ValueError(f"{spec.type} version {spec.version} is registered twice")
    _REGISTRY[key] = spec
    return spec


def all_specs() -> list[ArtifactSpec]:
    """Every registered format, by type and version."""
    return [_REGISTRY[key] for key in sorted(_REGISTRY)]


def newest(artifact_type: str) -> ArtifactSpec:
    """The newest format of a type."""
    return _REGISTRY[max(key for key in _REGISTRY if key[0] == artifact_type)]


def find_spec(artifact_type: str, version: int, path: object) -> ArtifactSpec:
    """The format of a file that says its type and version.

    Raises:
        ArtifactError: If this installation does not know it.
    """
    spec = _REGISTRY.get((artifact_type, version))
    if spec is None:
        known = sorted(v for t, v in _REGISTRY if t == artifact_type)
        knows = f"this installation reads versions {known}" if known else "no such type is known"
        raise ArtifactError(
            f"{path}: it is a {artifact_type!r} of version {version}, but {knows}. "
            "Install the slidemill that wrote it (its `producer` says which), or a newer one."
        )
    return spec
