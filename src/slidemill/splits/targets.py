"""What a task asks of each row: classes, several labels, a number, or a time to an event.

Plain arrays; the labels of a sheet are coded in `slidemill.splits.labels`. A row is a slide or a
patient, whoever holds the table says which.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
TaskType = Literal["binary", "multiclass", "multilabel", "regression", "survival"]

TIME, EVENT = 0, 1
"""Columns of the values of a survival task."""


@dataclass(frozen=True)
class Targets:
    """What is to be predicted, for n rows.

    Attributes:
        type: The type of the task.
        names: What each score is of: the positive class of a binary task, all classes of a
            multiclass one in their order, the labels of a multilabel one, and the column of a
            regression or survival one.
        values: float64 (n, V). binary: 0 or 1, V = 1. multiclass: index of the class, V = 1.
            multilabel: 0, 1 or nan where the label is missing, V = number of labels. regression:
            the number, V = 1. survival: time and event (1 seen, 0 censored), V = 2.
        negative: Name of the other class of a binary task; empty for others.

    Raises:
        ValueError: If the values are not of the shape and the kind that the type has.
    """

    type: TaskType
    names: tuple[str, ...]
    values: Float64Array
    negative: str = ""

    def __post_init__(self) -> None:
        width = {"survival": 2, "multilabel": len(self.names)}.get(self.type, 1)
        if self.values.ndim != 2 or self.values.shape[1] != width:
            raise ValueError(f"{self.type} targets are (n, {width}), not {self.values.shape}")
        if self.values.dtype != np.float64:
            raise ValueError(f"targets are float64, not {self.values.dtype}")
        if not self._allowed():
            raise ValueError(f"values that a {self.type} task does not have")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def outputs(self) -> int:
        """Scores a row: K of the (n, K) that models predict."""
        return len(self.names)

    def take(self, rows: npt.ArrayLike) -> "Targets":
        """The targets of some rows, by index or mask."""
        return Targets(self.type, self.names, self.values[np.asarray(rows)], self.negative)

    def one_hot(self) -> Float64Array:
        """1 where a row is of the class or has the label, float64 (n, K); nan where it is missing.

        For binary, multiclass and multilabel tasks.
        """
        if self.type != "multiclass":
            return self.values
        hot: Float64Array = (self.values == np.arange(len(self.names))).astype(np.float64)
        return hot

    def strata(self) -> Int64Array:
        """Classes by which rows are dealt to folds, int64 (n,).

        The class of a binary or multiclass task, the event of a survival task, and the quarter of
        a regression task's values in which a number lies. A multilabel task has the combination of
        its labels (missing counts as a third value); rare combinations are for the caller.
        """
        if self.type == "regression":
            edges = np.quantile(self.values[:, 0], [0.25, 0.5, 0.75])
            return np.searchsorted(edges, self.values[:, 0], side="left").astype(np.int64)
        if self.type == "survival":
            return self.values[:, EVENT].astype(np.int64)
        if self.type == "multilabel":
            coded = np.where(np.isnan(self.values), 2, self.values).astype(np.int64)
            return np.unique(coded, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
        return self.values[:, 0].astype(np.int64)

    def _allowed(self) -> bool:
        values = self.values
        if self.type == "multilabel":
            return bool((np.isin(values, (0.0, 1.0)) | np.isnan(values)).all())
        if not np.isfinite(values).all():
            return False
        if self.type == "binary":
            return bool(np.isin(values, (0.0, 1.0)).all()) and len(self.names) == 1
        if self.type == "multiclass":
            return bool(np.isin(values, np.arange(len(self.names))).all())
        if self.type == "survival":
            events = values[:, EVENT]
            return bool((values[:, TIME] >= 0.0).all() and np.isin(events, (0.0, 1.0)).all())
        return True
