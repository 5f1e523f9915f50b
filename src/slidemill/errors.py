"""Errors of slidemill: each says what is wrong, where, and what to do next.

There are three kinds. A `UserError` is something that the user can fix (config, sheet, weights,
a leak): the command line prints its text without a traceback and exits with 2. A `SlideError` is
a fault of one slide: it becomes a `failed` row of the stage's manifest and the cohort goes on.
Anything else is a bug or a broken machine, fails the job, and keeps its traceback.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class SlidemillError(Exception):
    """Root of all errors that slidemill raises itself."""


class UserError(SlidemillError):
    """A fault that the user can fix; shown without a traceback."""


@dataclass(frozen=True)
class Problem:
    """One fault of a config, a sheet or an artifact.

    Attributes:
        where: Place of the fault, such as `tiles.mpp` or `row 7, column mpp`.
        what: What is wrong there.
        todo: What the user can do about it.
    """

    where: str
    what: str
    todo: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. {self.todo}."


class ProblemsError(UserError):
    """Several faults of one thing, all reported at once.

    Attributes:
        problems: Every fault that was found, in the order of the thing itself.
    """

    title = "invalid"

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"{self.title} {source} has {count}:\n{lines}")


class ConfigError(ProblemsError):
    """The configuration is not valid."""

    title = "config"


class SheetError(ProblemsError):
    """The slide sheet is not valid."""

    title = "sheet"


class ArtifactError(UserError):
    """A file of a stage is missing, damaged, of an unknown version, or not of this stage."""


class WeightsError(UserError):
    """Weights of an encoder are missing, gated, or do not fit the architecture."""


class LeakError(UserError):
    """A patient would be on both sides of a split; nothing computed from it could be trusted."""


class CohortError(UserError):
    """Too much of the cohort failed, or too little of it is left to go on."""


class CollapseError(UserError):
    """A training run diverged or collapsed."""


class SlideCode(StrEnum):
    """Why a slide failed; the closed set of `error_code` values in manifests."""

    FILE_MISSING = "file-missing"
    CHANGED = "changed"
    NOT_A_FILE = "not-a-file"
    SYMLINK_LOOP = "symlink-loop"
    NO_PERMISSION = "no-permission"
    EMPTY = "empty"
    TRUNCATED = "truncated"
    NOT_A_SLIDE = "not-a-slide"
    UNSUPPORTED = "unsupported"
    UNREADABLE = "unreadable"
    READ_ERROR = "read-error"
    MPP_MISSING = "mpp-missing"
    MPP_IMPLAUSIBLE = "mpp-implausible"
    TOO_COARSE = "too-coarse"
    TISSUE_FILE = "tissue-file"
    NO_TISSUE = "no-tissue"
    NO_COORDINATES = "no-coordinates"
    NO_TILES = "no-tiles"
    NOT_FINITE = "not-finite"
    CRASHED = "crashed"
    OUT_OF_MEMORY = "out-of-memory"
    TIMED_OUT = "timed-out"


class SlideError(SlidemillError):
    """A fault of one slide, which becomes a `failed` row and never ends the run.

    Attributes:
        code: The kind of fault.
        message: What is wrong and what can be done about it.
    """

    def __init__(self, code: SlideCode, message: str) -> None:
        # One line, whatever a library said: manifests and logs are read by line.
        self.code = code
        self.message = " ".join(message.split())
        super().__init__(f"{code.value}: {self.message}")

    def __reduce__(self) -> tuple[type["SlideError"], tuple[SlideCode, str]]:
        """Readers in other processes say what is wrong with a slide."""
        return SlideError, (self.code, self.message)
