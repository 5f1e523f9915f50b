"""What killed writers left, and files of slides that the sheet no longer has.

Only looks; `slidemill.runs.gc` deletes. Goes into the stages' folders and no others, and follows no
link.
"""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slidemill.artifacts.parquet import read_table
from slidemill.errors import ArtifactError
from slidemill.runs.catalog import STAGE_FOLDERS
from slidemill.runs.marks import marks_folder, read_marks
from slidemill.runs.outcome import StageKey
from slidemill.runs.record import RunRecord, results_path

OLD_SECONDS = 3600.0
"""Age from which a temporary file or a mark is taken for a leftover."""

_TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp")
TRASH = ".trash-"
"""How names of folders begin that are being deleted."""


@dataclass(frozen=True)
class Leftovers:
    """Files, or trash of an earlier gc, that killed writers left.

    Attributes:
        what: `temporary`, `trash` or `mark`.
        paths: The files or folders.
        size_bytes: Their length together.
    """

    what: str
    paths: tuple[Path, ...]
    size_bytes: int


@dataclass(frozen=True)
class StaleSlides:
    """Files in a dataset in use, of slides that the sheet no longer has."""

    folder: Path
    slides: int
    paths: tuple[Path, ...]
    size_bytes: int


def find_leftovers(results: Path, unused: set[Path]) -> Iterator[Leftovers]:
    """What killed writers left, outside of folders that are not in use."""
    temporary: list[Path] = []
    trash: list[Path] = []
    for stage in STAGE_FOLDERS:
        top = results / stage
        if not top.is_dir() or top.is_symlink():
            continue
        for place, folders, names in os.walk(top):
            here = Path(place)
            if here == top:
                trash += [top / name for name in folders if name.startswith(TRASH)]
                folders[:] = [n for n in folders if n[0] != "." and top / n not in unused]
            temporary += [here / n for n in names if _TEMPORARY.fullmatch(n) and _old(here / n)]
    marks = [
        path
        for name, mark in read_marks(results).items()
        if mark.lost and _old(path := marks_folder(results) / f"{name}.json")
    ]
    for what, paths in (("temporary", temporary), ("trash", trash), ("mark", marks)):
        if paths:
            yield Leftovers(what, tuple(sorted(paths)), sum(map(length, paths)))


def _old(path: Path) -> bool:
    try:
        return time.time() - path.lstat().st_mtime > OLD_SECONDS
    except FileNotFoundError:
        return False


def length(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    try:
        if path.is_dir() and not path.is_symlink():
            return sum(length(Path(p, n)) for p, _, names in os.walk(path) for n in names)
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def find_stale(
    results: Path, used: dict[StageKey, set[str]], earlier: list[tuple[Path, RunRecord]]
) -> Iterator[StaleSlides]:
    """Files of slides that neither the sheets in use have, nor an earlier run had."""
    for key, known in used.items():
        folder = results / key[0] / key[1]
        slides = folder / "slides"
        if not slides.is_dir() or any(one.is_symlink() for one in (folder.parent, folder, slides)):
            continue
        with os.scandir(slides) as entries:
            # A name without its ending is the slide's; hidden files are being written.
            files = [one.name for one in entries if one.name[0] != "." and one.is_file()]
        gone = [name for name in files if name.rpartition(".")[0] not in known]
        if not gone:
            continue
        spared = [_slides_of(path, record, key) for path, record in earlier]
        if any(ids is None for ids in spared):
            continue
        keep = set().union(*(ids for ids in spared if ids is not None))
        paths = [slides / name for name in gone if name.rpartition(".")[0] not in keep]
        if paths:
            count = len({path.name.rpartition(".")[0] for path in paths})
            yield StaleSlides(folder, count, tuple(sorted(paths)), sum(map(length, paths)))


def _slides_of(path: Path, record: RunRecord, key: StageKey) -> set[str] | None:
    """Slides that a run had in a dataset; None if it used it and nobody knows for which."""
    if key not in {stage.key for stage in record.stages}:
        return set()
    if record.status != "success":
        return None
    try:
        table = read_table(results_path(path), "run-results").to_pydict()
    except ArtifactError:
        return None
    rows = zip(table["stage"], table["run"], table["slide_id"], strict=True)
    return {slide for stage, run, slide in rows if (stage, run) == key}
