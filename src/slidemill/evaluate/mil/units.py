"""What a fit of bag models is given and gives back."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from slidemill.config import AbmilConfig, MilConfig, SurvivalConfig

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BagUnit:
    """Bags of one model, by their indices.

    Attributes:
        name: The unit in words, for messages.
        train: Bags that train, int64, ascending.
        validate: Bags of inner validation; they train as well where nothing is validated.
        test: Bags that are predicted.
        seed: Seed of initial weights and dropout.
    """

    name: str
    train: Int64Array
    validate: Int64Array
    test: Int64Array
    seed: int


@dataclass(frozen=True)
class UnitResult:
    """What a model says of the test bags of its unit.

    Attributes:
        scores: float64 (n, K).
        attention: One float32 (n_i,) a test bag, which sums to 1; none where there is none.
        epochs: Epochs whose weights were taken: the best one and those before it.
        waited_s: Seconds for which the training of all units side by side waited for tiles.
    """

    scores: Float64Array
    attention: list[Float32Array] = field(default_factory=list)
    epochs: int = 0
    waited_s: float = 0.0


@dataclass(frozen=True)
class Settings:
    """Settings of a bag model.

    Attributes:
        mil: Of its training.
        abmil: Of its attention.
        survival: Of a survival task's head.
        standardise: Whether features are standardised by the tiles of each unit's training bags.
    """

    mil: MilConfig = field(default_factory=MilConfig)
    abmil: AbmilConfig = field(default_factory=AbmilConfig)
    survival: SurvivalConfig = field(default_factory=SurvivalConfig)
    standardise: bool = True
