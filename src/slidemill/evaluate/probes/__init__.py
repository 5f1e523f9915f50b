"""Models on one vector a slide (or patient): all of one signature, by the names of configs."""

from slidemill.evaluate.probes import cox, knn, linear_probe, ridge, simpleshot
from slidemill.evaluate.probes.base import Fit, Fitted, Probe, Settings
from slidemill.splits.targets import TaskType

_CLASSES: tuple[TaskType, ...] = ("binary", "multiclass", "multilabel")

PROBES: dict[str, Probe] = {
    probe.name: probe
    for probe in (
        Probe("linear-probe", frozenset(_CLASSES), linear_probe.fit),
        Probe("ridge", frozenset({"regression"}), ridge.fit),
        Probe("cox", frozenset({"survival"}), cox.fit),
        Probe("knn", frozenset({*_CLASSES, "regression"}), knn.fit),
        Probe("simpleshot", frozenset(_CLASSES), simpleshot.fit),
    )
}
"""All models on vectors, by name."""

__all__ = ["PROBES", "Fit", "Fitted", "Probe", "Settings"]
