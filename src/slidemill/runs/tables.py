"""The catalogue and what may go, for people: tables of 100 columns, on a terminal or in a log."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from slidemill.artifacts.parquet import Row
from slidemill.runs.gc import Earlier, Folder, Found
from slidemill.runs.leftovers import StaleSlides

WIDTH = 100
"""Columns in logs and pipes, which have no width of their own."""
SHOWN = 20
"""Lines of a list that may be long; --json has all."""

_DAY = 86400.0


def console() -> Console:
    """Where tables go."""
    found = Console()
    return found if found.is_terminal else Console(width=WIDTH)


def say(text: str) -> None:
    """Print a line as it is, however long."""
    console().print(text, markup=False, highlight=False, soft_wrap=True)


def table(title: str, left: Sequence[str], right: Sequence[str], last: str = "") -> Table:
    """An empty table.

    Args:
        title: What stands above it.
        left: Headings of columns of text.
        right: Headings of columns of numbers.
        last: Heading of a last column of text, which takes what width is left.
    """
    made = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for heading in left:
        made.add_column(heading, overflow="fold")
    for heading in right:
        made.add_column(heading, justify="right", no_wrap=True)
    if last:
        made.add_column(last, overflow="fold")
    return made


def show(made: Table) -> None:
    """Print a table and an empty line."""
    out = console()
    out.print(made)
    out.print()


def add(made: Table, *cells: object, style: str | None = None) -> None:
    """Add a row whose cells are plain text; None is an empty cell."""
    made.add_row(*(Text("" if cell is None else str(cell)) for cell in cells), style=style)


def size_words(count: float) -> str:
    """A length in bytes for people: `1.2 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def age_words(time: str | None) -> str:
    """How long ago a time (ISO 8601) was, for people: `3 days`."""
    if time is None:
        return ""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()
    for unit, length in (("day", _DAY), ("hour", 3600.0), ("minute", 60.0)):
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {unit}{'s' if number != 1 else ''}"
    return "now"


def counted(number: int, what: str) -> str:
    """`1 folder`, `2 folders`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def print_catalog(path: Path, rows: Sequence[Row]) -> None:
    """Print a line a dataset, then what is wrong with folders."""
    numbers = ("ok", "failed", "rows", "files", "size")
    made = table("datasets", ("stage", "run"), numbers, "updated")
    for row in rows:
        counts = [
            None if row[name] is None else f"{row[name]:,}"
            for name in ("slides_ok", "slides_failed", "rows", "files")
        ]
        size, day = size_words(row["size_bytes"]), (row["updated"] or "")[:10]
        add(made, row["stage"], row["run"], *counts, size, day)
    show(made)
    for row in rows:
        if row["problem"]:
            say(f"{row['stage']}/{row['run']}: {row['problem']}")
    total = size_words(sum(row["size_bytes"] for row in rows))
    known = sum(row["digest"] is not None for row in rows)
    say(f"{path}: {counted(known, 'dataset')}, {total}")


def catalog_json(rows: Sequence[Row]) -> str:
    """The catalogue as JSON, texts of JSON unpacked."""
    unpacked = [
        row
        | {
            name: None if row[name] is None else json.loads(row[name])
            for name in ("parameters", "upstream", "configs")
        }
        for row in rows
    ]
    return json.dumps(unpacked, indent=2)


def print_found(found: Found, *, also_earlier: bool, slides: bool, deletes: bool) -> None:
    """Print what may go, and what stands against it.

    Args:
        found: What was found.
        also_earlier: Whether what earlier configurations used goes too.
        slides: Whether slides that the sheet no longer has go too.
        deletes: Whether it is being deleted.
    """
    say(f"{found.results}: {counted(found.in_use, 'dataset')} in use")
    if found.earlier:
        _print_earlier(found.earlier)
    if found.folders:
        _print_folders(found.folders)
    for one in found.foreign:
        say(f"not touched: {one.path}: {one.why}")
    for left in found.leftovers:
        words = {"temporary": "temporary file", "trash": "half-deleted folder", "mark": "old mark"}
        what = counted(len(left.paths), words[left.what])
        say(f"{what} of killed jobs, {size_words(left.size_bytes)}")
    if found.stale:
        _print_stale(found.stale, slides)
    going = found.deletable(also_earlier=also_earlier)
    size = sum(folder.size_bytes for folder in going)
    size += sum(left.size_bytes for left in found.leftovers)
    size += sum(stale.size_bytes for stale in found.stale) if slides else 0
    kept = len(found.folders) - len(going)
    if not deletes:
        spared = f"; {counted(kept, 'folder')} of earlier configurations stay" if kept else ""
        say(f"--delete would free {size_words(size)}: {counted(len(going), 'folder')}{spared}")


def _print_earlier(earlier: Sequence[Earlier]) -> None:
    if len(earlier) == 1:
        say("1 other configuration has been run on these results:")
    else:
        say(f"{len(earlier)} other configurations have been run on these results:")
    for one in islice(earlier, SHOWN):
        kept = f"{counted(one.folders, 'folder')}, {size_words(one.size_bytes)}"
        run = f"last run {one.run}, would keep {kept}" if one.run else "no record says what it used"
        say(f"  {one.path}: {run}")
    if len(earlier) > SHOWN:
        say(f"  and {len(earlier) - SHOWN} more; --json has all")


def _print_folders(folders: Sequence[Folder]) -> None:
    last = "used by an earlier\nconfiguration"
    made = table("not in use", ("folder",), ("files", "size", "age"), last)
    for folder in folders:
        used_by = folder.used_by and f"run of {folder.used_by[:16].replace('T', ' ')}"
        name = f"{folder.path.parent.name}/{folder.path.name}"
        numbers = (f"{folder.files:,}", size_words(folder.size_bytes), age_words(folder.updated))
        add(made, name, *numbers, used_by)
    show(made)


def _print_stale(stale: Sequence[StaleSlides], slides: bool) -> None:
    size = size_words(sum(one.size_bytes for one in stale))
    ids = {path.name.rpartition(".")[0] for one in stale for path in one.paths}
    hint = "" if slides else " (kept; --slides takes them too)"
    say(f"{counted(len(ids), 'slide')} no longer in the sheet, {size}{hint}:")
    for one in islice(stale, SHOWN):
        name = f"{one.folder.parent.name}/{one.folder.name}"
        say(f"  {name}: {counted(one.slides, 'slide')}, {size_words(one.size_bytes)}")
    if len(stale) > SHOWN:
        say(f"  and {len(stale) - SHOWN} more; --json has all")


def found_json(found: Found, *, deleted: bool, freed: int, problems: Sequence[str]) -> str:
    """What was found, and what became of it, as JSON."""
    facts = {
        "results": str(found.results),
        "in_use": found.in_use,
        "folders": [
            {
                "path": str(one.path),
                "files": one.files,
                "size_bytes": one.size_bytes,
                "updated": one.updated,
                "used_by": one.used_by,
            }
            for one in found.folders
        ],
        "foreign": [{"path": str(one.path), "why": one.why} for one in found.foreign],
        "leftovers": [
            {"what": one.what, "paths": list(map(str, one.paths)), "size_bytes": one.size_bytes}
            for one in found.leftovers
        ],
        "stale_slides": [
            {"folder": str(one.folder), "slides": one.slides, "size_bytes": one.size_bytes}
            for one in found.stale
        ],
        "earlier": [
            {
                "path": str(one.path),
                "run": one.run,
                "folders": one.folders,
                "size_bytes": one.size_bytes,
            }
            for one in found.earlier
        ],
        "deleted": deleted,
        "freed_bytes": freed,
        "problems": list(problems),
    }
    return json.dumps(facts, indent=2)
