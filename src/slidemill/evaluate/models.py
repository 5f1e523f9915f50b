"""Every model of the evaluation: what it takes and what it can predict.

Facts only; nothing heavy is imported here, so that a plan can ask. What the models do is in
`slidemill.evaluate.mil` (bags of tiles) and `slidemill.evaluate.probes` (one vector a slide).
"""

from dataclasses import dataclass
from typing import Literal

from slidemill.config.evaluate import ModelName, TaskType

Kind = Literal["bags", "vectors"]

_CLASSES: tuple[TaskType, ...] = ("binary", "multiclass", "multilabel")
_ONE_CLASS: tuple[TaskType, ...] = ("binary", "multiclass")
_ALL: tuple[TaskType, ...] = (*_CLASSES, "regression", "survival")


@dataclass(frozen=True)
class Model:
    """A model.

    Attributes:
        name: Its name in the configuration.
        kind: Whether it takes bags of tiles, or one vector a slide.
        types: Types of task that it can do.
        about: What it is, in a sentence.
        package: The optional package that it needs; empty for none.
        breaks_mil: Whether it can call a slide by what its tiles lack: it fails a MIL unit test of
            Raff & Holt 2023 (arXiv:2310.17867), as `benchmarks/mil_oracles.py` measures. Linear
            models of a mean break it by construction.
    """

    name: ModelName
    kind: Kind
    types: tuple[TaskType, ...]
    about: str
    package: str = ""
    breaks_mil: bool = True


MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model("abmil", "bags", _ALL, "attention pooling (Ilse et al. 2018)"),
        Model("mean-pool", "bags", _ALL, "mean of embedded tiles, trained whole"),
        Model("max-pool", "bags", _ALL, "largest output of the tiles (mi-Net)", breaks_mil=False),
        Model("clam-sb", "bags", _ONE_CLASS, "CLAM, single branch (Lu et al. 2021)", "torchmil"),
        Model("dsmil", "bags", _CLASSES, "DSMIL (Li et al. 2021)", "torchmil"),
        Model("transmil", "bags", _ALL, "TransMIL (Shao et al. 2021)", "torchmil"),
        Model("linear-probe", "vectors", _CLASSES, "L2-regularised logistic regression"),
        Model("ridge", "vectors", ("regression",), "L2-regularised linear regression"),
        Model("cox", "vectors", ("survival",), "L2-regularised proportional hazards"),
        Model("knn", "vectors", (*_CLASSES, "regression"), "nearest neighbours, weighted votes"),
        Model("simpleshot", "vectors", _CLASSES, "nearest class mean (Wang et al. 2019)"),
    )
}
"""Every model by its name."""

PROBE_OF: dict[TaskType, ModelName] = {
    "binary": "linear-probe",
    "multiclass": "linear-probe",
    "multilabel": "linear-probe",
    "regression": "ridge",
    "survival": "cox",
}
"""The linear model of each type of task; controls use it."""

RETRIEVAL = "retrieval"
"""Name of the rows that find slides of the same class."""
RETRIEVAL_KS = (1, 3, 5)
"""Neighbours that a retrieval looks at."""
