"""What may go: results that no configuration in use refers to, and what killed writers left.

`find` only looks. `delete` takes away what `find` named and asks for the run's lock to be held. It
goes nowhere but into the stages' folders (and the marks of jobs), follows no link, and takes no
folder that does not say that it is slidemill's. A folder is renamed before its files go, so that a
killed `gc` leaves nothing that looks whole.
"""

import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slidemill.artifacts.parquet import Row
from slidemill.config import load_config
from slidemill.errors import ArtifactError, UserError
from slidemill.plan import Plan
from slidemill.planner import make_plan
from slidemill.runs.catalog import STAGE_FOLDERS, identify, survey
from slidemill.runs.leftovers import (
    TRASH,
    Leftovers,
    StaleSlides,
    find_leftovers,
    find_stale,
    length,
)
from slidemill.runs.outcome import StageKey
from slidemill.runs.record import RunRecord, latest_by_configuration


@dataclass(frozen=True)
class Folder:
    """A dataset that no configuration in use refers to.

    Attributes:
        path: Its folder.
        files: Files in it.
        size_bytes: Their length together.
        updated: When one was last written (ISO 8601, UTC).
        used_by: Start of the last run of an earlier configuration that refers to it; None if none
            does.
    """

    path: Path
    files: int
    size_bytes: int
    updated: str | None
    used_by: str | None


@dataclass(frozen=True)
class Foreign:
    """Something in the stages' folders that is not ours to delete, and why."""

    path: Path
    why: str


@dataclass(frozen=True)
class Earlier:
    """A configuration that has been run on these results and is not in use.

    Attributes:
        path: The configuration as the run kept it.
        run: Start of its last run; None if no record of one is readable.
        folders: Datasets that only earlier configurations refer to, this one among them.
        size_bytes: Their length together.
    """

    path: Path
    run: str | None
    folders: int
    size_bytes: int


@dataclass(frozen=True)
class Found:
    """What may go, and what stands against it."""

    results: Path
    in_use: int
    folders: tuple[Folder, ...]
    foreign: tuple[Foreign, ...]
    leftovers: tuple[Leftovers, ...]
    stale: tuple[StaleSlides, ...]
    earlier: tuple[Earlier, ...]

    def deletable(self, *, also_earlier: bool) -> list[Folder]:
        """Folders that `--delete` takes."""
        return [one for one in self.folders if also_earlier or one.used_by is None]


def load_plans(configs: Sequence[Path]) -> list[Plan]:
    """Plan the configurations in use.

    Raises:
        UserError: If one cannot be planned, or they are of different results.
    """
    plans = []
    for path in configs:
        try:
            plans.append(make_plan(load_config(path), Path()))
        except UserError as error:
            raise UserError(
                f"{path} cannot be planned, so nobody knows which results it uses. Fix it, or "
                f"leave it out if it is no longer in use.\n{error}"
            ) from None
    if len({plan.results.resolve() for plan in plans}) > 1:
        named = ", ".join(f"{c}: {p.results}" for c, p in zip(configs, plans, strict=True))
        raise UserError(f"the configurations have different results ({named}). Give one at a time.")
    return plans


def find(plans: Sequence[Plan], names: Sequence[str], *, also_earlier: bool = False) -> Found:
    """Find what may go.

    Args:
        plans: Plans of the configurations in use, all of one results folder.
        names: Their names in `configs/`.
        also_earlier: Whether slides that only earlier configurations have count as stale.
    """
    results = plans[0].results
    used: dict[StageKey, set[str]] = {}
    for plan in plans:
        for stage in plan.all_stages():
            used.setdefault((stage.stage, stage.name), set()).update(plan.slide_ids)
    latest = latest_by_configuration(results)
    kept = {path.stem for path in (results / "configs").glob("*.json")}
    earlier = sorted((kept | set(latest)) - set(names))
    records = {name: latest[name] for name in earlier if name in latest}
    used_by: dict[StageKey, str] = {}
    for _, record in sorted(records.values(), key=lambda one: one[1].started):
        used_by |= {stage.key: record.started for stage in record.stages}
    rows = survey(results)
    folders, foreign = _judge(results, rows, used, used_by)
    spared = {} if also_earlier else records
    return Found(
        results=results,
        in_use=sum((row["stage"], row["run"]) in used for row in rows),
        folders=folders,
        foreign=foreign,
        leftovers=tuple(find_leftovers(results, {one.path for one in folders})),
        stale=tuple(find_stale(results, used, list(spared.values()))),
        earlier=tuple(_earlier(results, name, latest.get(name), folders) for name in earlier),
    )


def delete(found: Found, *, also_earlier: bool, slides: bool) -> tuple[int, list[str]]:
    """Delete what was found; the caller holds the lock of the results.

    Args:
        found: What may go.
        also_earlier: Also folders that earlier configurations refer to.
        slides: Also files of slides that the sheet no longer has.

    Returns:
        Bytes that were freed, and what could not be deleted, in words.

    Raises:
        UserError: If no record says what an earlier configuration uses.
    """
    unknown = [one.path for one in found.earlier if one.run is None]
    if unknown and not also_earlier:
        raise UserError(
            f"no record says which results {', '.join(map(str, unknown))} used. Give those that "
            "you still need with --config, or delete whatever earlier configurations used with "
            "--also-earlier. Nothing was deleted."
        )
    freed, problems = 0, []
    for folder in found.deletable(also_earlier=also_earlier):
        try:
            remove_folder(found.results, folder.path)
            freed += folder.size_bytes
        except (OSError, ArtifactError) as error:
            problems.append(f"{folder.path}: {error}")
    paths = [path for group in found.leftovers for path in group.paths]
    paths += [path for group in found.stale for path in group.paths] if slides else []
    for path in paths:
        size = length(path)
        try:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            freed += size
        except OSError as error:
            problems.append(f"{path}: {error}")
    return freed, problems


def remove_folder(results: Path, folder: Path) -> None:
    """Delete a dataset: rename it, so that it is gone at once, then delete its files.

    Raises:
        ArtifactError: If it is not slidemill's, or not where datasets are.
        OSError: If it cannot be renamed or deleted.
    """
    stage = folder.parent
    if stage.parent != results or stage.name not in STAGE_FOLDERS:
        raise ArtifactError("not in a stage's folder")
    if folder.is_symlink() or stage.is_symlink():
        raise ArtifactError("a link")
    identify(folder)
    trash = stage / f"{TRASH}{folder.name}-{uuid.uuid4().hex[:8]}"
    folder.rename(trash)
    shutil.rmtree(trash)


def _judge(
    results: Path, rows: Sequence[Row], used: dict[StageKey, set[str]], used_by: dict[StageKey, str]
) -> tuple[tuple[Folder, ...], tuple[Foreign, ...]]:
    """Datasets that are not in use, and folders that are not ours."""
    linked = {stage for stage in STAGE_FOLDERS if (results / stage).is_symlink()}
    foreign = [Foreign(results / stage, "a link, not looked into") for stage in sorted(linked)]
    folders = []
    for row in rows:
        path, key = results / row["stage"] / row["run"], (row["stage"], row["run"])
        if key in used or row["stage"] in linked:
            continue
        if path.is_symlink():
            foreign.append(Foreign(path, "a link"))
        elif row["digest"] is None:
            foreign.append(Foreign(path, row["problem"]))
        else:
            sizes = row["files"], row["size_bytes"], row["updated"]
            folders.append(Folder(path, *sizes, used_by.get(key)))
    return tuple(folders), tuple(foreign)


def _earlier(
    results: Path, name: str, last: tuple[Path, RunRecord] | None, folders: Sequence[Folder]
) -> Earlier:
    path = results / "configs" / f"{name}.json"
    if last is None:
        return Earlier(path, None, 0, 0)
    keys = {results / stage.stage / stage.run for stage in last[1].stages}
    kept = [folder for folder in folders if folder.path in keys]
    return Earlier(path, last[1].started, len(kept), sum(one.size_bytes for one in kept))
