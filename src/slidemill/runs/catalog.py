"""The catalogue of a results folder: `catalog.parquet`, one row a dataset.

A dataset is a stage's folder, whatever configuration it is of. Reads what lies in the folders
(`dataset.json`, manifests, names and lengths of files) and the records of runs; never a slide's
file. A folder whose own entries have not changed since its row was made is not walked again:
writers put files in place by a rename, which the times of a folder show. Damaged and foreign
folders get a row that says so.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_pascal

from slidemill.artifacts.digest import SHORT, canonical_json, digest_of
from slidemill.artifacts.formats import CATALOG
from slidemill.artifacts.parquet import Row, read_rows, read_table, write_rows
from slidemill.artifacts.provenance import Stamp
from slidemill.errors import ArtifactError
from slidemill.runs.outcome import PER_SLIDE
from slidemill.runs.record import latest_by_configuration

STAGE_FOLDERS = (
    "cohort", "tissue", "candidates", "tiles", "features", "splits", "pretrain", "evaluate",
    "report",
)  # fmt: skip
"""Folders of the results that hold datasets, in the order of the data."""

_TABLES = {
    "splits": "splits.parquet",
    "feature-summary": "summary.parquet",
    "predictions": "predictions.parquet",
    "metrics": "metrics.parquet",
}
"""Main table of a dataset that is not per slide, by its artifact's type."""


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_pascal)


class _Maker(_Facts):
    name: str
    version: str


class _Above(_Facts):
    folder: str


class Dataset(_Facts):
    """A `dataset.json`, as `slidemill.artifacts.folder` writes it."""

    generated_by: tuple[_Maker, ...]
    stage: str
    label: str
    artifact_type: str
    artifact_version: int
    algorithm_version: int
    digest: str
    parameters: dict[str, Any]
    upstream: tuple[_Above, ...]


def identify(folder: Path) -> Dataset:
    """What a stage's folder says that it is.

    Raises:
        ArtifactError: If it is none of slidemill's, damaged, or not what its name says; the text
            is for a table, without the folder.
    """
    try:
        found = Dataset.model_validate_json((folder / "dataset.json").read_bytes())
    except FileNotFoundError:
        raise ArtifactError("no dataset.json") from None
    except OSError as error:
        raise ArtifactError(f"dataset.json: {error.strerror}") from None
    except ValidationError:
        raise ArtifactError("dataset.json is damaged or not of slidemill") from None
    if [maker.name for maker in found.generated_by] != ["slidemill"]:
        raise ArtifactError("dataset.json is not of slidemill")
    named = folder.name.endswith(f"-{found.digest[:SHORT]}") and len(found.digest) > SHORT
    if found.stage != folder.parent.name or not named:
        raise ArtifactError(f"dataset.json is of {found.stage} {found.digest[:SHORT]}")
    return found


def update(results: Path) -> list[Row]:
    """Bring the catalogue up to date.

    Returns:
        Its rows, in the order of the data, then by name.

    Raises:
        OSError: If it cannot be written.
    """
    rows = survey(results)
    digest = digest_of({"stage": "catalog"})
    write_rows(catalog_path(results), rows, CATALOG, Stamp(digest=digest, item_digest=digest))
    return rows


def catalog_path(results: Path) -> Path:
    """The catalogue of a results folder."""
    return results / "catalog.parquet"


def survey(results: Path) -> list[Row]:
    """The rows that the catalogue has to have; rows that it has are used where they still hold."""
    try:
        known = {
            (row["stage"], row["run"]): row for row in read_rows(catalog_path(results), "catalog")
        }
    except ArtifactError:
        # It is made of what is there, so one that is not readable is only slower.
        known = {}
    configs: dict[tuple[str, str], list[str]] = {}
    for name, (_, record) in sorted(latest_by_configuration(results).items()):
        for stage in record.stages:
            configs.setdefault(stage.key, []).append(name)
    rows = []
    for folder in dataset_folders(results):
        key = (folder.parent.name, folder.name)
        state = _state(folder)
        row = known.get(key)
        if row is None or row["state"] != state:
            row = _row(folder) | {"state": state}
        rows.append(row | {"configs": canonical_json(configs.get(key, []))})
    return rows


def dataset_folders(results: Path) -> Iterator[Path]:
    """Folders below the stages' folders, whatever is in them; hidden ones left out."""
    for stage in STAGE_FOLDERS:
        top = results / stage
        if top.is_dir():
            with os.scandir(top) as entries:
                names = [one.name for one in entries if one.is_dir() and one.name[0] != "."]
            yield from (top / name for name in sorted(names))


def _state(folder: Path) -> str:
    """Digest of names, lengths and times of a folder's own entries; not of what is below them."""
    try:
        with os.scandir(folder) as entries:
            found = [(one.name, one.stat(follow_symlinks=False)) for one in entries]
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return digest_of(sorted([name, facts.st_size, facts.st_mtime_ns] for name, facts in found))


def _row(folder: Path) -> Row:
    """The row of a folder that is walked; `configs` and `state` are the caller's."""
    row: Row = {item.name: None for item in CATALOG.fields}
    row |= {"stage": folder.parent.name, "run": folder.name} | _size(folder)
    try:
        found = identify(folder)
    except ArtifactError as error:
        return row | {"problem": str(error)}
    row |= {
        "label": found.label,
        "digest": found.digest,
        "artifact_type": found.artifact_type,
        "artifact_version": found.artifact_version,
        "algorithm_version": found.algorithm_version,
        "parameters": canonical_json(found.parameters),
        "upstream": canonical_json([above.folder for above in found.upstream]),
        "producer": f"{found.generated_by[0].name} {found.generated_by[0].version}",
        "created": _iso((folder / "dataset.json").stat().st_mtime),
    }
    try:
        return row | _counts(folder, found)
    except (ArtifactError, OSError) as error:
        return row | {"problem": str(error)}


def _counts(folder: Path, found: Dataset) -> Row:
    """Slides and rows; empty for a stage that is not done, or that has no table."""
    if found.stage in PER_SLIDE:
        kind = "cohort" if found.stage == "cohort" else "manifest"
        path = folder / f"{kind}.parquet"
        if not path.is_file():
            return {}
        table = read_table(path, kind)
        failed = table["status"].to_pylist().count("failed")
        counted = "count" in table.column_names
        return {
            "slides_ok": table.num_rows - failed,
            "slides_failed": failed,
            "rows": sum(n or 0 for n in table["count"].to_pylist()) if counted else table.num_rows,
        }
    path = folder / _TABLES.get(found.artifact_type, "")
    if not path.is_file():
        return {}
    try:
        return {"rows": pq.read_metadata(path).num_rows}
    except pa.ArrowInvalid as error:
        raise ArtifactError(f"{path.name}: not readable as Parquet ({error})") from None


def _size(folder: Path) -> Row:
    """Number and length of all files below a folder, and when the last was written.

    Links are not followed. A file that goes while it is looked at is left out.
    """
    files, size, newest = 0, 0, 0.0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                facts = Path(place, name).lstat()
            except FileNotFoundError:
                continue
            files, size, newest = files + 1, size + facts.st_size, max(newest, facts.st_mtime)
    return {"files": files, "size_bytes": size, "updated": _iso(newest) if files else None}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
