"""Parquet artifacts: tables with a typed schema and their provenance in the footer.

The footer's key `slidemill` holds the stamp as JSON; the columns stay plain, so pandas and pyarrow
read the table alone. Numbers keep the dtype of the format and text is text. Tables are read as
NumPy columns, as rows, or as a data frame; only the last imports pandas.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from slidemill.artifacts import formats  # noqa: F401 - fills the registry
from slidemill.artifacts.arrow import to_arrow, to_numpy
from slidemill.artifacts.atomic import atomic_path
from slidemill.artifacts.provenance import Stamp
from slidemill.artifacts.spec import ArtifactSpec, find_spec
from slidemill.errors import ArtifactError

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
"""A row of a table; missing values are None."""

FOOTER_KEY = b"slidemill"
"""Key of the stamp in the Parquet footer."""


def schema_of(spec: ArtifactSpec, labels: tuple[str, ...] = ()) -> pa.Schema:
    """Arrow schema of a format, with the sheet's label columns where it allows them."""
    fields = [
        pa.field(
            item.name,
            pa.string() if item.dtype == "str" else pa.from_numpy_dtype(item.dtype),
            nullable=item.nullable,
        )
        for item in spec.fields
    ]
    return pa.schema(fields + [pa.field(name, pa.string(), nullable=True) for name in labels])


def write_parquet(
    path: Path,
    columns: "Mapping[str, Any] | pd.DataFrame",
    spec: ArtifactSpec,
    stamp: Stamp,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a table in a format, atomically.

    Args:
        path: Where to.
        columns: Arrays or lists by name, or a data frame, in any order; NaN is a missing value.
        spec: Its format.
        stamp: Its provenance.
        extra: Further facts for the footer, as JSON.

    Raises:
        ArtifactError: If columns are missing, unknown, or of another type.
    """
    known = [item.name for item in spec.fields]
    labels = tuple(str(name) for name in columns if name not in known)
    missing = [name for name in known if name not in columns]
    if missing or (labels and not spec.open_columns):
        raise ArtifactError(
            f"{path}: a {spec.type} table lacks columns {missing} or has unknown ones "
            f"{list(labels)}. This is a fault of slidemill: please report it."
        )
    schema = schema_of(spec, labels)
    try:
        arrays = [to_arrow(columns[item.name], item.type) for item in schema]
        table = pa.Table.from_arrays(arrays, schema=schema)
        for item in table.schema:
            if not item.nullable and table[item.name].null_count:
                raise ValueError(f"column {item.name} has missing values")
    except (ValueError, TypeError, OverflowError) as error:
        raise ArtifactError(
            f"{path}: not a valid {spec.type} table: {error}. "
            "This is a fault of slidemill: please report it."
        ) from error
    footer = stamp.as_attributes(spec.type, spec.version) | dict(extra or {})
    metadata = {**(table.schema.metadata or {}), FOOTER_KEY: json.dumps(footer, sort_keys=True)}
    with atomic_path(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd")


def write_rows(path: Path, rows: Sequence[Row], spec: ArtifactSpec, stamp: Stamp) -> None:
    """Write a table that is given as rows; see `write_parquet`."""
    names = [item.name for item in spec.fields]
    names += [name for name in (rows[0] if rows else {}) if name not in names]
    # A row that an older version wrote may lack a column.
    write_parquet(path, {name: [row.get(name) for row in rows] for name in names}, spec, stamp)


def read_footer(path: Path) -> dict[str, Any]:
    """The stamp of a Parquet artifact.

    Raises:
        ArtifactError: If the file is missing, is not Parquet, or is not of slidemill.
    """
    return _parse_footer(path, _open(path).schema_arrow.metadata)


def read_table(path: Path, artifact_type: str) -> pa.Table:
    """Read a table of one type, in any version that is registered.

    Raises:
        ArtifactError: If the file is missing, damaged, of another type or of an unknown version.
    """
    file = _open(path)
    footer = _parse_footer(path, file.schema_arrow.metadata)
    if footer["artifact_type"] != artifact_type:
        raise ArtifactError(
            f"{path}: a {artifact_type} table is needed, this is a {footer['artifact_type']}. "
            "Give the path of the right file."
        )
    spec = find_spec(artifact_type, int(footer["artifact_version"]), path)
    # Without threads, since processes are forked afterwards.
    table: pa.Table = file.read(use_threads=False)
    absent = [item.name for item in spec.fields if item.name not in table.column_names]
    if absent:
        raise ArtifactError(f"{path}: columns {absent} are missing. Delete the file and run again.")
    return table


def read_columns(path: Path, artifact_type: str) -> dict[str, npt.NDArray[Any]]:
    """A table as NumPy columns; missing numbers are NaN. Raises as `read_table`."""
    table = read_table(path, artifact_type)
    return {name: to_numpy(table[name]) for name in table.column_names}


def read_rows(path: Path, artifact_type: str) -> list[Row]:
    """A table as rows; missing values are None. Raises as `read_table`."""
    rows: list[Row] = read_table(path, artifact_type).to_pylist()
    return rows


def read_parquet(path: Path, artifact_type: str) -> "pd.DataFrame":
    """A table as a data frame. Raises as `read_table`."""
    frame: pd.DataFrame = read_table(path, artifact_type).to_pandas()
    return frame


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise ArtifactError(
            f"{path}: there is no such file. Run the stage that makes it."
        ) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(
            f"{path}: not readable as Parquet ({error}). Delete it and run again."
        ) from error


def _parse_footer(path: Path, metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    raw = (metadata or {}).get(FOOTER_KEY)
    if raw is None:
        raise ArtifactError(f"{path}: it has no slidemill footer, so it is no artifact of ours.")
    footer: dict[str, Any] = json.loads(raw)
    return footer
