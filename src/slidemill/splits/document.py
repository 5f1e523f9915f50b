"""`splits.json`: the units of a task as a document that people read and runs take back.

The text is stable (same units, same bytes) and whole: what is read is what was written. A document
is validated whole, with every fault at once; whether it leaks is for `slidemill.splits.checks`.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from slidemill.errors import Problem, SheetError
from slidemill.splits.units import ALL, Unit
from slidemill.splits.words import named

FORMAT = "slidemill-splits"
VERSION = 1

_Number = Annotated[int, Field(ge=0, strict=True)]
_Patient = Annotated[str, Field(min_length=1, strict=True)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class UnitDocument(_Part):
    """A unit in a document; see `slidemill.splits.units.Unit`."""

    sample: Annotated[str, Field(min_length=1, strict=True)] = ALL
    draw: _Number = 0
    repeat: _Number
    fold: _Number
    train: tuple[_Patient, ...] = Field(min_length=1)
    validate_: tuple[_Patient, ...] = Field((), alias="validate")
    test: tuple[_Patient, ...] = Field(min_length=1)

    @field_validator("train", "validate_", "test")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted(patient for patient, times in Counter(value).items() if times > 1)
        if twice:
            raise ValueError(f"names patients twice: {named(twice)}")
        return value

    def to_unit(self) -> Unit:
        """The unit, its patients ascending."""
        return Unit(
            self.repeat,
            self.fold,
            tuple(sorted(self.train)),
            tuple(sorted(self.validate_)),
            tuple(sorted(self.test)),
            self.sample,
            self.draw,
        )


class SplitsDocument(_Part):
    """A whole document.

    Attributes:
        format: `slidemill-splits`.
        version: Version of the format.
        task: Name of the task that it was made for.
        protocol: How it was made: k-fold, split, leave-one-site-out, given.
        seed: The seed that it was made with.
        units: The units, in their order.
    """

    format: Literal["slidemill-splits"]
    version: Literal[1]
    task: Annotated[str, Field(min_length=1)]
    protocol: str
    seed: _Number
    units: tuple[UnitDocument, ...]

    @model_validator(mode="after")
    def _several(self) -> Self:
        # Not a least length of the field: units that are not valid would count as missing.
        if not self.units:
            raise ValueError("there are no units")
        units = [unit.to_unit() for unit in self.units]
        times = Counter(unit.key for unit in units)
        twice = sorted({unit.name for unit in units if times[unit.key] > 1})
        if twice:
            raise ValueError(f"units are there twice: {named(twice)}")
        return self


def to_json(units: Sequence[Unit], task: str, protocol: str, seed: int) -> str:
    """Units as a document, with a line for each part of a unit.

    Args:
        units: The units, in their order.
        task: Name of the task.
        protocol: k-fold, split, leave-one-site-out, or given.
        seed: The seed that they were made with.
    """
    head = {
        "format": FORMAT,
        "version": VERSION,
        "task": task,
        "protocol": protocol,
        "seed": seed,
    }
    lines = [f"  {_text(key)}: {_text(value)}," for key, value in head.items()]
    blocks = ",\n".join(_block(unit) for unit in units)
    return "{\n" + "\n".join(lines) + f'\n  "units": [\n{blocks}\n  ]\n}}\n'


def read_json(path: Path) -> SplitsDocument:
    """Read and validate a document.

    Raises:
        SheetError: If it is not JSON, or not such a document, with every fault at once.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        problem = Problem(str(path), f"not valid JSON ({error})", "Take the splits.json of a run")
        raise SheetError(str(path), [problem]) from None
    try:
        return SplitsDocument.model_validate(found)
    except ValidationError as error:
        raise SheetError(str(path), [_problem(fault) for fault in error.errors()]) from None


def _problem(fault: ErrorDetails) -> Problem:
    """Say in the user's words what pydantic found."""
    where = ".".join(str(part) for part in fault["loc"]) or "the document"
    if fault["type"] == "extra_forbidden":
        return Problem(where, "unknown key", "Remove it")
    if fault["type"] == "missing":
        return Problem(where, "a value is needed", "Add the key")
    if fault["type"] == "too_short":
        return Problem(where, "names nobody", "Add patients, or remove the unit")
    message = fault["msg"].removeprefix("Value error, ")
    todo = "Fix it, or take the splits.json of a run"
    return Problem(where, message[0].lower() + message[1:], todo)


def _block(unit: Unit) -> str:
    numbers = {"sample": unit.sample, "draw": unit.draw, "repeat": unit.repeat, "fold": unit.fold}
    parts = {"train": unit.train, "validate": unit.validate, "test": unit.test}
    lines = [", ".join(f"{_text(key)}: {_text(value)}" for key, value in numbers.items())]
    lines += [f"{_text(part)}: {_text(patients)}" for part, patients in parts.items()]
    return "    {\n" + ",\n".join(f"      {line}" for line in lines) + "\n    }"


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
