"""Whether one file is what it should be: there, readable, of its stage, slide and version, whole.

Each check gives the file's fault as a `Problem` with what to do about it, or nothing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from slidemill.artifacts.digest import SHORT, file_sha256
from slidemill.artifacts.folder import StageId, read_dataset
from slidemill.artifacts.hdf5 import open_hdf5, read_attributes
from slidemill.artifacts.parquet import Row, read_footer, read_rows
from slidemill.artifacts.spec import find_spec
from slidemill.artifacts.workers import Lost
from slidemill.errors import ArtifactError, Problem, UserError
from slidemill.plan import Plan, PretrainPlan

SHOWN_SLIDES = 5
"""Slides that one problem names."""
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"


def fix(path: Path, output: Path) -> str:
    """What to do about a file that is missing or damaged.

    Snakemake has to be told: it does not know the files of slides, and does not miss what lies
    between results that are there.

    Args:
        path: The file.
        output: What the job declares that makes it; the job keeps all else that is there.
    """
    if path.exists():
        return f"Delete it, then run snakemake with --forcerun {output}"
    if output.exists():
        return f"Run snakemake with --forcerun {output}"
    return run_again(output)


def run_again(output: Path) -> str:
    """What to do where a run has work left, which Snakemake sees unless its records are gone."""
    return f"Run snakemake again; if it finds nothing to do, with --forcerun {output}"


def problem_of(path: Path, error: UserError, output: Path) -> Problem:
    """The fault that reading a file has shown."""
    text = str(error).removeprefix(f"{path}: ").removesuffix(".")
    # Errors end with what to do; here it is known better.
    what = text.rsplit(". ", 1)[0]
    return Problem(str(path), what, fix(path, output))


def check_dataset(stage: StageId, results: Path, output: Path) -> Problem | None:
    """Whether a stage's folder says that it is this stage's."""
    folder = stage.folder(results)
    path = folder / "dataset.json"
    try:
        found = read_dataset(folder)
    except ArtifactError as error:
        return problem_of(path, error, output)
    if found.get("Digest") != stage.digest:
        other = str(found.get("Digest"))[:SHORT]
        todo = f"Move {folder} away, then run snakemake with --forcerun {output}"
        return Problem(str(path), f"the folder holds results of another run ({other})", todo)
    return None


def read_table_of(
    path: Path, kind: str, stage: StageId, output: Path
) -> tuple[list[Row], Problem | None]:
    """The rows of a table of a stage, and what is wrong with it."""
    try:
        rows = read_rows(path, kind)
        digest = read_footer(path)["digest"]
    except UserError as error:
        return [], problem_of(path, error, output)
    if digest != stage.digest:
        return [], Problem(str(path), _other_run(digest), fix(path, output))
    return rows, None


def check_hdf5(path: Path, kind: str, stage: StageId, output: Path) -> Problem | None:
    """Whether an HDF5 file without a manifest is of a stage."""
    try:
        with open_hdf5(path, kind) as file:
            digest = str(file.attrs["digest"])
    except UserError as error:
        return problem_of(path, error, output)
    if digest != stage.digest:
        return Problem(str(path), _other_run(digest), fix(path, output))
    return None


@dataclass(frozen=True)
class SlideFile:
    """A slide's file that is checked.

    Attributes:
        path: The file.
        row: The slide's row of the manifest.
        stage: The stage.
        output: What the job declares that makes the file.
        above: Item digests that the slide has now in the stages that this one reads, by stage;
            None where it has failed.
    """

    path: Path
    row: Row
    stage: StageId
    output: Path
    above: Mapping[str, str | None]


def check_slide(file: SlideFile) -> Problem | None:
    """Whether a slide's file is the one that the manifest has, and made from what is there.

    HDF5 may crash or never end on a file with a flipped byte: call this in a process of its own.
    """
    path, row, stage, output = file.path, file.row, file.stage, file.output
    if not path.is_file():
        return Problem(str(path), "the file is missing", fix(path, output))
    try:
        fault = _fault(path, row, stage) or _fault_beside(path, row, stage)
    except UserError as error:
        fault = problem_of(path, error, output).what
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        # What libraries say of damage behind the header.
        fault = f"not readable ({error})"
    if file_sha256(path) != row["sha256"]:
        why = "its sha256 is not the manifest's"
        fault = f"{fault}; {why}" if fault else f"{why}, its bytes have changed"
    if fault:
        return Problem(str(path), fault, fix(path, output))
    made_from = json.loads(_provenance(path)["upstream"])
    others = [name for name, digest in file.above.items() if made_from[name] != digest]
    if others:
        what = f"it was made from another result of {others[0]} than is there now"
        return Problem(str(path), what, run_again(output))
    return None


def unreadable(file: SlideFile, lost: Lost) -> Problem:
    """The fault of a file whose check was not survived, or did not end."""
    return Problem(str(file.path), f"not readable ({lost.reason})", fix(file.path, file.output))


def check_summary(path: Path, features: Mapping[str, str | None]) -> Problem | None:
    """Whether a summary is of the features that are there; its own faults are said elsewhere.

    Args:
        path: The summary.
        features: Item digests that slides have now; None where a slide has failed.
    """
    try:
        seen = {row["slide_id"]: row["item_digest"] for row in read_rows(path, "feature-summary")}
    except UserError:
        return None
    others = [name for name in {**features, **seen} if seen.get(name) != features.get(name)]
    if not others:
        return None
    what = f"it was made from other features than are there now, of {named(others)}"
    return Problem(str(path), what, run_again(path))


def named(slides: Sequence[str]) -> str:
    """Some slides by name, and how many more there are."""
    shown = ", ".join(slides[:SHOWN_SLIDES])
    more = len(slides) - SHOWN_SLIDES
    return f"{shown} and {more} more" if more > 0 else shown


def check_checkpoint(plan: Plan, unit: PretrainPlan) -> Problem | None:
    """Whether a slide encoder is that of the run, says whom it saw, and made the embeddings."""
    from slidemill.pretrain.checkpoint import read_facts, read_trained_on

    folder = unit.stage.folder(plan.results)
    path, output = folder / "checkpoint.safetensors", plan.manifest_path(unit.stage)
    try:
        read_trained_on(path)
        digest = str(read_facts(path).get("digest"))
    except UserError as error:
        return problem_of(path, error, output)
    if digest != unit.stage.digest:
        return Problem(str(path), _other_run(digest), fix(path, output))
    sha256 = file_sha256(path)
    embedding = next(iter(sorted((folder / "slides").glob("*.h5"))), None)
    try:
        used = read_attributes(embedding)["checkpoint_sha256"] if embedding else sha256
    except UserError:
        # The embedding's own problem says so.
        return None
    if used != sha256:
        what = "its bytes are not those of the encoder that made the embeddings"
        return Problem(str(path), what, fix(path, output))
    return None


def _fault(path: Path, row: Row, stage: StageId) -> str | None:
    """What does not agree between a file, its row of the manifest and the stage."""
    kind = stage.spec.type
    found = _provenance(path)
    version = int(found["artifact_version"])
    if found["artifact_type"] != kind:
        return f"it is a {found['artifact_type']} file, not a {kind} file"
    if found["slide_id"] != row["slide_id"]:
        return f"it is the file of slide {found['slide_id']}"
    if version != stage.spec.version:
        find_spec(kind, version, path)
        return f"it has format version {version}, not {stage.spec.version}"
    if found["digest"] != stage.digest:
        return _other_run(str(found["digest"]))
    if found["item_digest"] != row["item_digest"]:
        return "it was made from other inputs than the manifest says"
    count = _count(path, kind, found)
    if count != row["count"]:
        return f"it counts {count}, and the manifest {row['count']}"
    return None


def _provenance(path: Path) -> Mapping[str, Any]:
    return read_footer(path) if path.suffix == ".parquet" else read_attributes(path)


def _count(path: Path, kind: str, attributes: Mapping[str, Any]) -> int:
    """The number that the manifest calls `count`."""
    if kind == "tiles":
        kept = pq.ParquetFile(path).read(columns=["keep"], use_threads=False)["keep"]
        return sum(kept.to_pylist())
    if kind == "candidates":
        return int(pq.read_metadata(path).num_rows)
    if kind == "features":
        with open_hdf5(path) as file:
            return len(file["features"])
    return int(attributes["pieces"]) if kind == "tissue-mask" else 1


def _fault_beside(path: Path, row: Row, stage: StageId) -> str | None:
    """What is wrong with the outlines and the picture beside a mask of tissue."""
    if stage.stage != "tissue":
        return None
    outlines, picture = path.with_suffix(".geojson"), path.with_suffix(".jpg")
    try:
        stamp = json.loads(outlines.read_text(encoding="utf-8"))["slidemill"]
        if stamp["item_digest"] != row["item_digest"]:
            return f"{outlines.name} beside it is of another run"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{outlines.name} beside it is not readable ({error})"
    try:
        data = picture.read_bytes()
    except OSError as error:
        return f"{picture.name} beside it is not readable ({error})"
    if not data.startswith(JPEG_START) or not data.endswith(JPEG_END):
        return f"{picture.name} beside it is not a whole JPEG"
    return None


def _other_run(digest: str) -> str:
    return f"written by another run ({digest[:SHORT]})"
