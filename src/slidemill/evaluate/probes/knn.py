"""Nearest neighbours on one vector a slide.

Vectors are centred by the mean of the training rows and brought to length 1; they are not scaled by
feature. A neighbour votes with exp(cosine / temperature) (Wu et al. 2018, arXiv:1805.01978). Votes
are not balanced: a class of many rows has many neighbours.
"""

from collections.abc import Sequence

import numpy as np

from slidemill.evaluate.probes.base import (
    Fitted,
    Float64Array,
    Settings,
    check_rows,
    directions,
    one_thread,
    tasks_of,
)
from slidemill.splits.targets import Targets

SAME = 1e-9
"""Cosines nearer than this are equal; more than rounding makes of those of equal vectors."""


def fit(
    x: Float64Array,
    targets: Targets,
    patients: Sequence[str],
    settings: Settings,
    *,
    inner_folds: int,
    seed: int,
) -> Fitted:
    """Remember training rows.

    Args:
        x: Vectors of the training rows, float64 (n, D), finite.
        targets: Of a binary, multiclass, multilabel or regression task. A label's neighbours are
            among the rows where it is known.
        patients: Patient of each row.
        settings: `knn`; k is no more than there are rows.
        inner_folds: Not used: nothing is chosen.
        seed: Not used: nothing is drawn.

    Returns:
        The model: shares of the votes, or the weighted mean of a regression.

    Raises:
        ValueError: If a label has one class only, or for a survival task.
    """
    check_rows(x, targets, patients)
    k, temperature = settings.knn.k, settings.knn.temperature
    if targets.type == "regression":
        memories = [_Memory(x, targets.values, k, temperature)]
        return Fitted(memories[0].predict, {"k": float(memories[0].k)})
    memories, chosen = [], {}
    for task in tasks_of(targets, "knn"):
        hot = (task.classes[:, None] == np.arange(len(task.names))).astype(np.float64)
        values = hot if task.whole else hot[:, 1:]
        memories.append(_Memory(x[task.rows], values, k, temperature))
        chosen[f"k{task.suffix}"] = float(memories[-1].k)
    return Fitted(lambda x: np.concatenate([one.predict(x) for one in memories], axis=1), chosen)


class _Memory:
    """Training rows and what is averaged over neighbours, float64 (n, V)."""

    def __init__(self, x: Float64Array, values: Float64Array, k: int, temperature: float) -> None:
        self.centre = x.mean(axis=0)
        self.rows = directions(x, self.centre)
        self.values, self.temperature = values, temperature
        self.k = min(k, len(x))

    def predict(self, x: Float64Array) -> Float64Array:
        """float64 (m, V)."""
        with one_thread():
            cosines = directions(x, self.centre) @ self.rows.T
        kth = -np.partition(-cosines, self.k - 1, axis=1)[:, self.k - 1 : self.k]
        nearer, equal = cosines > kth + SAME, np.abs(cosines - kth) <= SAME
        # Rows that share the last place share its votes, so that their order does not matter.
        places = self.k - nearer.sum(axis=1, keepdims=True)
        counted = nearer + equal * (places / equal.sum(axis=1, keepdims=True))
        largest = cosines.max(axis=1, keepdims=True)
        votes = counted * np.exp((cosines - largest) / self.temperature)
        return np.asarray(votes @ self.values / votes.sum(axis=1, keepdims=True), np.float64)
