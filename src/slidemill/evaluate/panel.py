"""Predictions of one row of a comparison, as arrays over patients.

Reads rows of the format `predictions`, version 2; writes nothing. The unit is the patient: the
scores of a patient's slides are averaged. Arrays do not depend on the order of the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from slidemill.errors import CohortError
from slidemill.splits.targets import Float64Array, Int64Array, Targets, TaskType

ALL_TARGETS = "all"
"""Target of metrics that are not of one label."""


@dataclass(frozen=True)
class Group:
    """Out-of-fold predictions of one draw and repetition, pooled over its folds.

    Attributes:
        draw: The draw.
        repeat: The repetition.
        rows: Position of each patient among `Panel.patients`, int64 (m,), ascending.
        fold: Fold in which each is tested, int64 (m,).
        y: Values as in `Targets.values`, float64 (m, V).
        scores: Mean score of the patient's slides, float64 (m, K).
    """

    draw: int
    repeat: int
    rows: Int64Array
    fold: Int64Array
    y: Float64Array
    scores: Float64Array

    def take(self, part: npt.NDArray[np.bool_] | Int64Array) -> "Group":
        """Some of its patients, by mask or by their positions in the group, ascending."""
        return replace(
            self,
            rows=self.rows[part],
            fold=self.fold[part],
            y=self.y[part],
            scores=self.scores[part],
        )


@dataclass(frozen=True)
class Panel:
    """All groups of one target.

    Attributes:
        patients: Patients that any group of any target of the row tests, ascending.
        groups: By draw and repetition; a group may test some of the patients only, and a label
            that is missing for everyone has no groups.
    """

    patients: tuple[str, ...]
    groups: tuple[Group, ...]

    def tested(self) -> Int64Array:
        """Positions of the patients that a group tests, int64, ascending."""
        rows = [group.rows for group in self.groups]
        return np.unique(np.concatenate(rows)) if rows else np.zeros(0, dtype=np.int64)

    def y(self) -> Float64Array:
        """Values of the tested patients, float64 (tested, V).

        Raises:
            ValueError: If a patient has different values in two groups.
        """
        tested = self.tested()
        width = self.groups[0].y.shape[1] if self.groups else 1
        values = np.full((len(tested), width), np.nan)
        for group in self.groups:
            here = np.searchsorted(tested, group.rows)
            before = values[here]
            if not (np.isnan(before) | (before == group.y)).all():
                raise ValueError("a patient has different labels in two draws or repetitions")
            values[here] = group.y
        return values

    def folds(self) -> dict[tuple[int, int, int], Group]:
        """The groups cut into folds, by draw, repetition and fold."""
        return {
            (group.draw, group.repeat, int(fold)): group.take(group.fold == fold)
            for group in self.groups
            for fold in np.unique(group.fold)
        }


def patient_predictions(predictions: pd.DataFrame) -> pd.DataFrame:
    """Mean score over each patient's slides.

    Args:
        predictions: Of one row of a comparison, in columns of the format `predictions`.

    Returns:
        One row a draw, repetition, target and patient, in this order: `draw`, `repeat`, `fold`,
        `patient_id`, `target`, `label`, `event`, `score` (float64).

    Raises:
        ValueError: If in one of these a patient has two labels or two folds, or a slide twice.
    """
    keys = ["draw", "repeat", "target", "patient_id"]
    if predictions.duplicated([*keys, "slide_id"]).any():
        raise ValueError("a slide is predicted twice in a repetition: give one row of a comparison")
    # Sorted first: the sum of floats, and so the mean, depends on the order of the slides.
    groups = predictions.sort_values([*keys, "score"]).groupby(keys, sort=True)
    least, most = (getattr(groups[["fold", "label", "event"]], end)() for end in ("min", "max"))
    if not least.equals(most):
        raise ValueError("a patient has more than one label or fold in a repetition")
    means: pd.DataFrame = least.assign(score=groups["score"].mean()).reset_index()
    return means[["draw", "repeat", "fold", "patient_id", "target", "label", "event", "score"]]


def make_panels(
    predictions: pd.DataFrame, task_type: TaskType, names: Sequence[str]
) -> dict[str, Panel]:
    """Arrays of one row of a comparison.

    Args:
        predictions: As for `patient_predictions`.
        task_type: Type of the task.
        names: What each score is of, as in `Targets.names`.

    Returns:
        By label for a multilabel task, each a binary one; else under `ALL_TARGETS`.

    Raises:
        CohortError: If there are no predictions.
        ValueError: If targets are not the names, a patient lacks a score, scores are not finite,
            values are not those of the type, or as for `patient_predictions`.
    """
    patients = patient_predictions(predictions)
    if patients.empty:
        raise CohortError(
            "there are no predictions to evaluate: no patient with a label has a usable slide. See "
            "the manifests of tiles and features for what failed."
        )
    if not set(patients["target"]) <= set(names):
        raise ValueError(f"targets {sorted(set(patients['target']))} are not those of {names}")
    if not np.isfinite(patients["score"]).all():
        raise ValueError("scores that are not finite")
    everyone = tuple(sorted(set(patients["patient_id"])))
    if task_type == "multilabel":
        parts = {name: patients[patients["target"] == name] for name in names}
        return {name: _panel(part, "binary", (name,), everyone) for name, part in parts.items()}
    return {ALL_TARGETS: _panel(patients, task_type, tuple(names), everyone)}


def _panel(
    table: pd.DataFrame, task_type: TaskType, names: tuple[str, ...], patients: tuple[str, ...]
) -> Panel:
    ordered = table.assign(code=table["target"].map({name: i for i, name in enumerate(names)}))
    ordered = ordered.sort_values(["draw", "repeat", "patient_id", "code"])
    if len(ordered) % len(names) or (ordered["code"] != np.arange(len(ordered)) % len(names)).any():
        raise ValueError(f"every patient has one score for each of {names}")
    first = ordered.iloc[:: len(names)]
    position = {patient: row for row, patient in enumerate(patients)}
    rows = np.asarray(first["patient_id"].map(position), dtype=np.int64)
    fold = first["fold"].to_numpy(np.int64)
    label, event, score = (
        ordered[column].to_numpy(np.float64).reshape(-1, len(names))
        for column in ("label", "event", "score")
    )
    y = Targets(task_type, names, _values(task_type, label, event)).values
    everything = Group(0, 0, rows, fold, y, score)
    draws, repeats = (first[column].to_numpy(np.int64) for column in ("draw", "repeat"))
    groups = []
    for draw, repeat in sorted(set(zip(draws.tolist(), repeats.tolist(), strict=True))):
        mine = everything.take((draws == draw) & (repeats == repeat))
        groups.append(replace(mine, draw=draw, repeat=repeat))
    return Panel(patients, tuple(groups))


def _values(task_type: TaskType, label: Float64Array, event: Float64Array) -> Float64Array:
    """Values as in `Targets`, from labels and events (n, K)."""
    if task_type == "survival":
        return np.stack([label[:, 0], event[:, 0]], axis=1)
    if task_type == "multiclass":
        if not (np.isin(label, (0.0, 1.0)).all() and (label.sum(axis=1) == 1.0).all()):
            raise ValueError("a patient is of exactly one class")
        return np.asarray(label.argmax(axis=1), dtype=np.float64)[:, None]
    values: Float64Array = label[:, :1]
    return values
