"""Strata: the kinds of patients that parts of a split should have alike.

Two notions. A stratum is what dealing and drawing keep in proportion; each patient is in one. A
class is what a training part must not be without; with several labels a patient is in several.
"""

import numpy as np
import numpy.typing as npt

from slidemill.splits.targets import EVENT, Int64Array, Targets

BoolArray = npt.NDArray[np.bool_]

RARE = 5
"""Combinations of labels that fewer patients have are one stratum."""


def strata_of(targets: Targets, rare: int = RARE) -> Int64Array:
    """The stratum of each row, int64 (n,).

    As `Targets.strata`, but combinations of labels with fewer than `rare` rows are merged: of a
    stratum of one or two rows no share can be drawn.
    """
    strata = targets.strata()
    if targets.type == "multilabel" and len(strata):
        counts = np.bincount(strata)
        strata = np.where(counts[strata] < rare, -1, strata)
    return np.unique(strata, return_inverse=True)[1].reshape(-1).astype(np.int64)


def classes_of(targets: Targets) -> dict[str, BoolArray]:
    """What a training part must not be without: for each class its rows, bool (n,).

    The classes of a binary or multiclass task, both values of each label of a multilabel one, the
    seen events of a survival task, and nothing for a regression.
    """
    values = targets.values
    if targets.type == "binary":
        return {targets.negative: values[:, 0] == 0, targets.names[0]: values[:, 0] == 1}
    if targets.type == "multiclass":
        return {name: values[:, 0] == code for code, name in enumerate(targets.names)}
    if targets.type == "multilabel":
        return {
            f"{name} {word}": values[:, number] == code
            for number, name in enumerate(targets.names)
            for code, word in ((1.0, "positive"), (0.0, "negative"))
        }
    if targets.type == "survival":
        return {"event": values[:, EVENT] == 1}
    return {}


def kept_groups(targets: Targets) -> BoolArray:
    """Groups of which a thinned or divided training part keeps a row, bool (n, G).

    The classes of a multilabel task, the strata of the others.
    """
    if targets.type == "multilabel":
        return np.stack(list(classes_of(targets).values()), axis=1)
    return one_hot(targets.strata())


def one_hot(strata: Int64Array) -> BoolArray:
    """Strata as columns, bool (n, number of different strata)."""
    return np.asarray(strata[:, None] == np.unique(strata)[None, :])
