"""Imports: another tool's coordinates as this cohort's tiles.

Reads a folder of TRIDENT's or CLAM's coordinate files and the cohort's table. Writes one
`coordinates` table a slide, for `tiles.grid: import`, with the tiles' true size and the sha256 of
the file they are from. Nothing is taken that does not fit the slide, and file names become paths
only where they are slides of the sheet.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import pandas as pd

from slidemill.artifacts.digest import file_sha256
from slidemill.artifacts.folder import StageId
from slidemill.artifacts.formats import COORDINATES
from slidemill.artifacts.parquet import write_parquet
from slidemill.errors import Problem
from slidemill.interop import clam, trident
from slidemill.interop.coordinates import ForeignTiles, fault_of
from slidemill.interop.read import ImportCoordinatesError, SlideFacts, read_facts, shorten
from slidemill.plan import Plan

log = logging.getLogger(__name__)

ImportTool = Literal["trident", "clam"]

ALGORITHM_VERSION = 1
"""Raised whenever the code here changes what is made of a file."""

_READERS: Mapping[ImportTool, Callable[[Path, float], ForeignTiles]] = {
    "trident": trident.read_patches,
    "clam": clam.read_patches,
}


def import_coordinates(plan: Plan, tool: ImportTool, source: Path, out: Path) -> int:
    """Take over another tool's coordinates.

    Args:
        plan: The plan of the run; its cohort stage has to be done, since the tools' files do not
            say a slide's mpp.
        tool: The tool.
        source: Folder with the tool's files, at any depth.
        out: Folder for `<slide>.parquet`; set it as `tiles.coordinates`.

    Returns:
        Number of slides that were imported.

    Raises:
        ArtifactError: If the cohort stage has not run.
        ImportCoordinatesError: With every file that cannot be used; the other slides are written.
    """
    facts = read_facts(plan)
    chosen = _choose(tool, source, plan, facts)
    stage = StageId("import", tool, COORDINATES, ALGORITHM_VERSION, {"tool": tool}, (plan.cohort,))
    problems: list[Problem] = []
    written = 0
    for slide_id, path in chosen.items():
        try:
            tiles = _read(tool, path, facts[slide_id])
        except ValueError as error:
            # A table of an earlier import would be taken for this one's.
            (out / f"{slide_id}.parquet").unlink(missing_ok=True)
            todo = f"Write it again with {tool}, or remove it"
            problems.append(Problem(str(path), str(error), todo))
            continue
        _write(out / f"{slide_id}.parquet", tiles, stage, facts[slide_id], path)
        written += 1
    if problems:
        where = f"{source} (the other {written} slides are written)"
        raise ImportCoordinatesError(where, problems)
    return written


def _choose(
    tool: ImportTool, source: Path, plan: Plan, facts: Mapping[str, SlideFacts]
) -> dict[str, Path]:
    """The file of each slide, in the order of the sheet.

    Raises:
        ImportCoordinatesError: If a slide has two files, or no slide has one.
    """
    found: dict[str, list[Path]] = {}
    for path in _candidates(tool, source):
        slide_id = path.stem.removesuffix("_patches") if tool == "trident" else path.stem
        found.setdefault(slide_id, []).append(path)
    known = [slide_id for slide_id in plan.slide_ids if slide_id in found]
    problems = [
        Problem(
            slide_id,
            f"it has more than one file: {', '.join(map(str, found[slide_id]))}",
            "Give the folder of one of them with --from",
        )
        for slide_id in known
        if len(found[slide_id]) > 1
    ]
    if not known:
        what = "there are no files of slides of the sheet below it"
        has = shorten(sorted(found)) if found else f"no {_PATTERNS[tool]} at all"
        todo = f"Its names have to be those of the sheet's slide_id column; it has {has}"
        problems.append(Problem(str(source), what, todo))
    if problems:
        raise ImportCoordinatesError(str(source), problems)
    _log_left_out("not in the sheet", sorted(set(found) - set(known)))
    _log_left_out("failed in cohort", [one for one in known if one not in facts])
    _log_left_out("without coordinates", [one for one in plan.slide_ids if one not in found])
    return {slide_id: found[slide_id][0] for slide_id in known if slide_id in facts}


_PATTERNS: Mapping[ImportTool, str] = {"trident": "*_patches.h5", "clam": "patches/*.h5"}


def _candidates(tool: ImportTool, source: Path) -> list[Path]:
    """Coordinate files below a folder, sorted."""
    # Resolved, so that `.` has a name where it is the folder `patches` itself.
    folder = source.resolve()
    if tool == "trident":
        return sorted(folder.rglob("*_patches.h5"))
    return sorted(p for p in folder.rglob("*.h5") if p.parent.name == "patches")


def _log_left_out(why: str, names: list[str]) -> None:
    if names:
        log.warning("%d left out, %s: %s", len(names), why, shorten(names))


def _read(tool: ImportTool, path: Path, facts: SlideFacts) -> ForeignTiles:
    """Tiles of a file that are certainly tiles of the slide.

    Raises:
        ValueError: If the file cannot be used; the message says why.
    """
    tiles = _READERS[tool](path, facts.mpp_x)
    fault = fault_of(tiles, facts.width, facts.height)
    if fault:
        raise ValueError(fault)
    return tiles


def _write(
    output: Path, tiles: ForeignTiles, stage: StageId, facts: SlideFacts, source: Path
) -> None:
    digest = file_sha256(source)
    stamp = stage.stamp(facts.slide_id, {"cohort": facts.item_digest, "file": digest})
    frame = pd.DataFrame(tiles.coords, columns=["x", "y"])
    origin = {"tool": stage.label, "sha256": digest}
    extra = {"geometry": tiles.geometry.as_dict(), "source": origin}
    write_parquet(output, frame, COORDINATES, stamp, extra)
