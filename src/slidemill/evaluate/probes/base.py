"""What all models on one vector a slide have in common.

Arrays in, arrays out; no files. A probe learns everything, the mean and scale of features among it,
from the rows that it is given, and those are training rows alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import scipy.linalg
from threadpoolctl import threadpool_limits

from slidemill.config import KnnConfig, LinearProbeConfig
from slidemill.splits.targets import Targets, TaskType

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Settings:
    """Settings of models on vectors.

    Attributes:
        linear_probe: Of linear-probe, ridge and cox.
        knn: Of knn.
    """

    linear_probe: LinearProbeConfig = field(default_factory=LinearProbeConfig)
    knn: KnnConfig = field(default_factory=KnnConfig)


@dataclass(frozen=True)
class Fitted:
    """A model after training.

    Attributes:
        score: What it says of vectors: float64 (n, D) to float64 (n, K).
        chosen: Settings that training chose, by name: `strength` (or `strength of LABEL`, one a
            label of a multilabel task), and `inner_folds`, the inner folds that chose it; 0 of them
            where there were too few patients to choose by.
    """

    score: Callable[[Float64Array], Float64Array]
    chosen: Mapping[str, float] = field(default_factory=dict)

    def predict(self, x: Float64Array) -> Float64Array:
        """Scores of vectors.

        Args:
            x: float64 (n, D).

        Returns:
            float64 (n, K), K = `Targets.outputs`. binary: probability of the positive class.
            multiclass: of each class. multilabel: of each label. regression: the number. survival:
            the risk, higher is sooner.
        """
        return self.score(np.asarray(x, dtype=np.float64))


class Fit(Protocol):
    """Training of a model on vectors."""

    def __call__(
        self,
        x: Float64Array,
        targets: Targets,
        patients: Sequence[str],
        settings: Settings,
        *,
        inner_folds: int,
        seed: int,
    ) -> Fitted:
        """Train.

        Args:
            x: Vectors of the training rows, float64 (n, D), finite.
            targets: What is to be predicted of them.
            patients: Patient of each row; a patient is never on both sides of an inner fold.
            settings: Hyper-parameters.
            inner_folds: Inner folds that choose a hyper-parameter, at most.
            seed: Seed of the inner folds.

        Returns:
            The fitted model. It does not depend on the order of the rows.

        Raises:
            ValueError: If the rows cannot train the model: one class only, no event, a task that
                the model does not do. The protocol has checked cohorts for that before.
        """
        ...


@dataclass(frozen=True)
class Probe:
    """A model on one vector a slide.

    Attributes:
        name: Its name in configs.
        types: Types of tasks that it can do.
        fit: Its training.
    """

    name: str
    types: frozenset[TaskType]
    fit: Fit


def check_rows(x: Float64Array, targets: Targets, patients: Sequence[str]) -> None:
    """Refuse rows that nothing can be fitted on.

    Raises:
        ValueError: If there are none, if a vector is not finite, or if the lengths differ.
    """
    if x.ndim != 2 or not len(x):
        raise ValueError(f"vectors are (n, D) with n > 0, not {x.shape}")
    if not len(x) == len(targets) == len(patients):
        raise ValueError(f"{len(x)} vectors, {len(targets)} targets, {len(patients)} patients")
    if not np.isfinite(x).all():
        raise ValueError("a vector is not finite")


@dataclass(frozen=True)
class Task:
    """One label of the rows that have it.

    Attributes:
        output: Which output it is, or the first of several.
        rows: Rows whose label is known, int64 (m,).
        classes: Class of each of them, int64 (m,).
        names: Names of all classes; those that no row has are among them.
        whole: Whether each class is an output (multiclass), and not the positive one alone.
        suffix: What `chosen` adds to the names of settings.
    """

    output: int
    rows: Int64Array
    classes: Int64Array
    names: tuple[str, ...]
    whole: bool
    suffix: str = ""

    @property
    def present(self) -> Int64Array:
        """Classes that rows have, ascending."""
        return np.unique(self.classes)

    def spread(self, probabilities: Float64Array) -> Float64Array:
        """Probabilities of the outputs, from those of the classes that are present.

        Args:
            probabilities: float64 (n, number of present classes).

        Returns:
            float64 (n, classes), 0 for a class that no training row has; of a binary task or a
            label float64 (n, 1), of the positive class.
        """
        if not self.whole:
            return probabilities[:, 1:]
        full = np.zeros((len(probabilities), len(self.names)))
        full[:, self.present] = probabilities
        return full


def tasks_of(targets: Targets, name: str) -> Iterator[Task]:
    """The labels of a binary, multiclass or multilabel task, one by one.

    Args:
        targets: The training rows' targets.
        name: The model, for messages.

    Raises:
        ValueError: If a label has one class only, or if the task has no classes.
    """
    if targets.type not in ("binary", "multiclass", "multilabel"):
        raise ValueError(f"{name} does no {targets.type} tasks")
    for i in range(targets.values.shape[1]):
        known = np.flatnonzero(~np.isnan(targets.values[:, i]))
        label = targets.names[i]
        names = targets.names if targets.type == "multiclass" else (f"not {label}", label)
        suffix = f" of {label}" if targets.type == "multilabel" else ""
        classes = targets.values[known, i].astype(np.int64)
        task = Task(i, known, classes, names, targets.type == "multiclass", suffix)
        if len(task.present) < 2:
            raise ValueError(f"{name} is trained on two classes at least; {label!r} has fewer")
        yield task


@dataclass(frozen=True)
class Space:
    """Standardised features, in no more dimensions than there are training rows.

    An L2-penalised linear model has its weights in the span of the training rows, so with D > n it
    is fitted on their n coordinates in an orthonormal basis of that span (QR): the penalty and all
    products are the same, and so is the model, but for rounding.

    Attributes:
        mean: Mean of the training rows, float64 (D,).
        scale: Their standard deviation (ddof 0), 1 for a constant feature, float64 (D,).
        basis: Orthonormal columns, float64 (D, r); None where D <= n and nothing is to be gained.
    """

    mean: Float64Array
    scale: Float64Array
    basis: Float64Array | None

    @classmethod
    def of(cls, x: Float64Array) -> tuple["Space", Float64Array]:
        """The space of training rows float64 (n, D), and their coordinates (n, min(n, D))."""
        mean, scale = x.mean(axis=0), x.std(axis=0)
        # What rounding leaves of a constant is no variance.
        constant = scale <= 10 * np.finfo(np.float64).eps * np.abs(mean)
        space = cls(mean, np.where(constant, 1.0, scale), None)
        standard = space.coordinates(x)
        standard[:, constant] = 0.0
        if x.shape[1] <= len(x):
            return space, standard
        basis, coordinates = scipy.linalg.qr(standard.T, mode="economic", check_finite=False)
        return cls(space.mean, space.scale, basis), np.ascontiguousarray(coordinates.T)

    def coordinates(self, x: Float64Array) -> Float64Array:
        """Coordinates of rows, float64 (n, D) to (n, r); what is outside of the span is lost."""
        found: Float64Array = (x - self.mean) / self.scale
        if self.basis is not None:
            found = found @ self.basis
        return found


def one_thread() -> AbstractContextManager[object]:
    """BLAS on one thread.

    Probes make many small products, in which threads mostly wait for one another, and numbers
    should not depend on how many there are.
    """
    limits: AbstractContextManager[object] = threadpool_limits(1, "blas")
    return limits


def directions(x: Float64Array, centre: Float64Array) -> Float64Array:
    """Rows minus a centre, of length 1; a row at the centre stays 0. float64 (n, D) both."""
    moved = x - centre
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    unit: Float64Array = np.divide(moved, length, out=np.zeros_like(moved), where=length > 0)
    return unit
