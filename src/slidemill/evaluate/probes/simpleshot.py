"""SimpleShot: the nearest class mean (Wang et al. 2019, arXiv:1911.04623).

Vectors are centred by the mean of the training rows and brought to length 1 (the paper's CL2N);
they are not scaled by feature. Scores are the softmax of minus the squared distances to the means
of the classes. They rank, but are not calibrated: distances on the unit sphere lie between 0 and 4,
whatever the evidence, so that scores of two classes stay between .02 and .98.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from slidemill.evaluate.probes.base import (
    Fitted,
    Float64Array,
    Settings,
    Task,
    check_rows,
    directions,
    one_thread,
    tasks_of,
)
from slidemill.splits.targets import Targets


def fit(
    x: Float64Array,
    targets: Targets,
    patients: Sequence[str],
    settings: Settings,
    *,
    inner_folds: int,
    seed: int,
) -> Fitted:
    """Average the training rows of each class.

    Classes weigh alike, whatever their sizes. A label of a multilabel task has a mean of its
    positives and one of its negatives, and is centred by the rows where it is known.

    Args:
        x: Vectors of the training rows, float64 (n, D), finite.
        targets: Of a binary, multiclass or multilabel task.
        patients: Patient of each row.
        settings: Not used: there is nothing to set.
        inner_folds: Not used: nothing is chosen.
        seed: Not used: nothing is drawn.

    Returns:
        The model. A class that no training row has, has a score of 0.

    Raises:
        ValueError: If a label has one class only, or for another type of task.
    """
    check_rows(x, targets, patients)
    models = []
    for task in tasks_of(targets, "simpleshot"):
        centre = x[task.rows].mean(axis=0)
        unit = directions(x[task.rows], centre)
        means = np.stack([unit[task.classes == label].mean(axis=0) for label in task.present])
        models.append(_Model(task, centre, means))
    return Fitted(lambda x: np.concatenate([one.predict(x) for one in models], axis=1))


@dataclass(frozen=True)
class _Model:
    """The means of one label's classes."""

    task: Task
    centre: Float64Array
    means: Float64Array

    def predict(self, x: Float64Array) -> Float64Array:
        with one_thread():
            products = directions(x, self.centre) @ self.means.T
        # ||u - m||^2 but for ||u||^2, which is common to all classes.
        distances = (self.means**2).sum(axis=1) - 2.0 * products
        return self.task.spread(np.asarray(softmax(-distances, axis=1), np.float64))
