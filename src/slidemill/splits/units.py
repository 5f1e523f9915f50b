"""Units of a protocol: which patients train, which validate, and which are tested.

One unit is one trained model. A protocol is a list of units; all models of a comparison go through
the same list.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from slidemill.errors import LeakError

ALL = "all"
"""`sample` of units that train on all patients of their training part."""


@dataclass(frozen=True)
class Unit:
    """One model's patients.

    Attributes:
        repeat: Repetition of the folds, from 0.
        fold: The fold that is tested, from 0.
        train: Patients that train, ascending.
        validate: Patients for early stopping and the choice of settings, ascending; may be empty,
            and belong to the training part: where nothing is validated they train as well.
        test: Patients that are tested, ascending.
        sample: How the training patients were thinned: `all`, `5-shot`, `10%`.
        draw: Number of the draw of a thinned unit, from 0.
    """

    repeat: int
    fold: int
    train: tuple[str, ...]
    validate: tuple[str, ...]
    test: tuple[str, ...]
    sample: str = ALL
    draw: int = 0

    @property
    def key(self) -> tuple[str, int, int, int]:
        """What tells units of a protocol apart: sample, draw, repeat, fold."""
        return self.sample, self.draw, self.repeat, self.fold

    @property
    def name(self) -> str:
        """The unit in words, for messages."""
        thinned = "" if self.sample == ALL else f"{self.sample}, draw {self.draw}, "
        return f"{thinned}repeat {self.repeat}, fold {self.fold}"


def unit_seed(seed: int, unit: Unit) -> int:
    """Seed of a unit's model, below 2**32.

    The folds of a repetition share it, so that they differ by their patients alone; repetitions
    and draws do not.
    """
    entropy = [seed, unit.repeat, unit.draw]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def refuse(patients: Iterable[str], what: str, todo: str, most_named: int = 5) -> None:
    """Raise `LeakError` with the names of patients, if there are any."""
    names = sorted({str(patient) for patient in patients})
    if names:
        more = f" and {len(names) - most_named} more" if len(names) > most_named else ""
        who = f"{len(names)} patient{'s' if len(names) > 1 else ''}"
        raise LeakError(f"{who} {what}: {', '.join(names[:most_named])}{more}. {todo}")
