"""Cohorts, targets and units for the tests of splits."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from slidemill.config import TaskConfig
from slidemill.splits.targets import Targets, TaskType

Columns = Mapping[str, Iterable[str | None]]


def cohort(patients: Sequence[str], **columns: Iterable[str | None]) -> pd.DataFrame:
    """One row a slide: slides s0, s1, ... of these patients, and label columns."""
    slides = [f"s{number}" for number in range(len(patients))]
    frame = {"slide_id": slides, "patient_id": list(patients)}
    return pd.DataFrame(frame | {name: list(cells) for name, cells in columns.items()})


def names(count: int) -> tuple[str, ...]:
    """Patients p000, p001, ..."""
    return tuple(f"p{number:03d}" for number in range(count))


def slides_of(patients: Sequence[str], how_many: Callable[[int], int] = lambda i: 1 + i % 3):
    """Patients of slides: each as often as it has slides."""
    return [patient for i, patient in enumerate(patients) for _ in range(how_many(i))]


def task(kind: TaskType = "binary", **settings) -> TaskConfig:
    """A task on the column y (and event)."""
    column: str | tuple[str, ...] = settings.pop("column", "y")
    event = "event" if kind == "survival" else None
    return TaskConfig(name="t", column=column, type=kind, event=event, **settings)


def some_targets(kind: TaskType, count: int, seed: int = 0) -> Targets:
    """Targets with several patients of every class."""
    rng = np.random.default_rng(seed)
    half = (rng.permutation(count) % 2).astype(float)
    if kind == "binary":
        return Targets("binary", ("b",), half[:, None], "a")
    if kind == "multiclass":
        codes = (rng.permutation(count) % 3).astype(float)
        return Targets("multiclass", ("a", "b", "c"), codes[:, None])
    if kind == "multilabel":
        values = np.stack([rng.permutation(count) % m == 0 for m in (2, 3, 4)], 1).astype(float)
        values[rng.random(values.shape) < 0.1] = np.nan
        values[np.isnan(values).all(axis=1), 0] = 1.0
        return Targets("multilabel", ("g1", "g2", "g3"), values)
    if kind == "regression":
        return Targets("regression", ("y",), rng.standard_normal((count, 1)))
    return Targets("survival", ("y",), np.stack([rng.exponential(size=count), half], axis=1))


KINDS: tuple[TaskType, ...] = ("binary", "multiclass", "multilabel", "regression", "survival")
