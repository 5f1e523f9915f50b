"""The splits stage: the folds of one task.

Reads the cohort's table (all rows, failed ones too: a slide that is mended later changes no fold)
or a table of the user's. Writes `splits.parquet`. Guarantees that no patient is in two folds of a
repetition, and that it says which label each patient counts with.
"""

from pathlib import Path

import pandas as pd

from slidemill.artifacts.folder import StageId, open_folder
from slidemill.artifacts.formats import SPLITS
from slidemill.artifacts.parquet import read_parquet, write_parquet
from slidemill.artifacts.provenance import Stamp
from slidemill.config import EvaluateConfig, TaskConfig
from slidemill.errors import Problem, SheetError
from slidemill.splits.folds import check_folds, make_folds
from slidemill.splits.labels import encode_binary, patient_labels, shuffle_patient_labels

_GIVEN_COLUMNS = {"task", "repeat", "fold", "patient_id"}


def run(
    stage: StageId,
    results: Path,
    cohort_path: Path,
    task: TaskConfig,
    config: EvaluateConfig,
    given: Path | None,
) -> Path:
    """Make or take the folds of a task; returns the path of `splits.parquet`.

    Raises:
        CohortError: If the label does not have two classes with enough patients each.
        LeakError: If given splits have a patient in two folds, or lack one.
        SheetError: If a patient has two labels, or given splits lack columns.
    """
    slides = labelled_slides(read_parquet(cohort_path, "cohort"), task, config.seed)
    encode_binary(slides["label"], task.positive)
    if given is None:
        folds = make_folds(slides, folds=config.folds, repeats=config.repeats, seed=config.seed)
    else:
        folds = _read_given(given, task.name)
    check_folds(folds, slides)
    labels = patient_labels(slides)
    folds = folds[folds["patient_id"].isin(labels.index)]
    frame = folds.assign(task=task.name, label=folds["patient_id"].map(labels))
    path = open_folder(stage, results) / "splits.parquet"
    stamp = Stamp(digest=stage.digest, item_digest=stage.digest, parameters=dict(stage.parameters))
    write_parquet(path, frame, SPLITS, stamp)
    return path


def labelled_slides(cohort: pd.DataFrame, task: TaskConfig, seed: int) -> pd.DataFrame:
    """Slides with a label: `slide_id`, `patient_id`, `label`; permuted if the task says so."""
    rows = cohort[["slide_id", "patient_id", task.column]]
    rows = rows.rename(columns={task.column: "label"})
    rows = rows[rows["label"].notna() & (rows["label"] != "")].astype(str)
    return shuffle_patient_labels(rows, seed) if task.shuffle_labels else rows


def _read_given(path: Path, task: str) -> pd.DataFrame:
    read = pd.read_csv if path.suffix == ".csv" else pd.read_parquet
    frame: pd.DataFrame = read(path)
    missing = sorted(_GIVEN_COLUMNS - set(frame.columns))
    if missing:
        problems = [
            Problem("header", f"the column {name} is missing", "Add it") for name in missing
        ]
        raise SheetError(str(path), problems)
    rows = frame.loc[frame["task"].astype(str) == task, ["repeat", "fold", "patient_id"]]
    if rows.empty:
        raise SheetError(
            str(path), [Problem("column task", f"no row is of the task {task!r}", "Add its folds")]
        )
    return rows.astype({"repeat": "int64", "fold": "int64", "patient_id": str})
