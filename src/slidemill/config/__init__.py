"""The configuration, typed once.

Every key of `config.yaml` is declared here with its type, its default and its meaning; the JSON
schema in `workflow/schemas/` and the commented `config.yaml` are generated from these classes
(`python -m slidemill.generate`), and a test fails when they drift. Unknown keys are errors, and all
faults are reported together, each with its place and what to do.
"""

import difflib
import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from slidemill.config.base import NAME_PATTERN, Section
from slidemill.config.evaluate import (
    AbmilConfig,
    EvaluateConfig,
    KnnConfig,
    LinearProbeConfig,
    MilConfig,
    ModelEntry,
    SurvivalConfig,
    TaskConfig,
)
from slidemill.config.learn import EncoderEntry, FeaturesConfig
from slidemill.config.pretrain import (
    CropsConfig,
    HeadConfig,
    IbotConfig,
    PretrainConfig,
    PretrainRun,
)
from slidemill.config.site import SiteConfig
from slidemill.config.slides import (
    CohortConfig,
    Reader,
    TilesConfig,
    TissueConfig,
    Twins,
    UnetConfig,
)
from slidemill.errors import ConfigError, Problem

__all__ = [
    "NAME_PATTERN",
    "STAGES",
    "AbmilConfig",
    "CohortConfig",
    "Config",
    "CropsConfig",
    "EncoderEntry",
    "EvaluateConfig",
    "FeaturesConfig",
    "HeadConfig",
    "IbotConfig",
    "KnnConfig",
    "LinearProbeConfig",
    "MilConfig",
    "ModelEntry",
    "PretrainConfig",
    "PretrainRun",
    "Reader",
    "Section",
    "SiteConfig",
    "SurvivalConfig",
    "TaskConfig",
    "TilesConfig",
    "TissueConfig",
    "Twins",
    "UnetConfig",
    "load_config",
    "parse_config",
]

Recompute = Literal["cohort", "tissue", "tiles", "features", "pretrain", "evaluate", "report"]

STAGES: tuple[Recompute, ...] = (
    "cohort",
    "tissue",
    "tiles",
    "features",
    "pretrain",
    "evaluate",
    "report",
)
"""Stages in the order of the data."""


class Config(Section):
    """All of `config.yaml`."""

    results: str = Field("results", description="Folder of every artifact.")
    buckets: int = Field(
        4, ge=1, le=9999, description="Jobs a stage is cut into; changes no result."
    )
    cohort: CohortConfig = Field(CohortConfig())
    tissue: TissueConfig = Field(TissueConfig())
    tiles: TilesConfig = Field(TilesConfig())
    features: FeaturesConfig = Field(FeaturesConfig())
    pretrain: PretrainConfig = Field(PretrainConfig())
    evaluate: EvaluateConfig = Field(EvaluateConfig())
    site: SiteConfig = Field(SiteConfig())
    recompute: tuple[Recompute | Literal["failed"], ...] = Field(
        (),
        description="For the command line only (--config recompute=features): stages, separated by "
        "commas, that run again although their results are there; failed: the failed slides.",
    )

    until: Recompute = Field(
        "report",
        description="Stage at which a run without a target ends; files of the stages' names in "
        "the root say it for a name that follows --configfile.",
    )

    @field_validator("recompute", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        return (
            [part for part in re.split(r"[,\s]+", value) if part]
            if isinstance(value, str)
            else value
        )


def parse_config(values: object, source: str) -> Config:
    """Validate plain values (of YAML or of Snakemake) as a configuration.

    Args:
        values: A mapping of keys to values.
        source: Where the values are from, for the message.

    Raises:
        ConfigError: With every fault at once.
    """
    try:
        return Config.model_validate(values if values is not None else {})
    except ValidationError as error:
        # One wrong value of a union gives an error per branch: say each place once.
        problems: dict[str, Problem] = {}
        for details in error.errors():
            problem = _problem(details)
            previous = problems.get(problem.where)
            if previous is None:
                problems[problem.where] = problem
            elif previous.what == problem.what and problem.todo not in previous.todo:
                problems[problem.where] = Problem(
                    problem.where, problem.what, f"{previous.todo}, or: {problem.todo}"
                )
        raise ConfigError(source, list(problems.values())) from None


def load_config(path: Path) -> Config:
    """Read and validate a YAML (or JSON) configuration file.

    Raises:
        ConfigError: If the file is missing, is not YAML, or is not valid.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problem = Problem(str(path), "there is no such file", "Give its path with --config")
        raise ConfigError(str(path), [problem]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = Problem(str(path), f"not YAML ({error})".replace("\n", " "), "Fix the syntax")
        raise ConfigError(str(path), [problem]) from None
    return parse_config(values, str(path))


_UNION_TAGS = re.compile(
    r"^(function-|literal\[|constrained-|lax-or-strict|tuple\[|str$|int$|float$|EncoderEntry$)"
)


def _problem(details: ErrorDetails) -> Problem:
    """Say in the user's words what pydantic found."""
    parts = [part for part in details["loc"] if not _UNION_TAGS.match(str(part))]
    where = ".".join(str(part) for part in parts) or "the file"
    kind, given = details["type"], details.get("input")
    if kind == "extra_forbidden":
        known = _keys_beside([str(part) for part in parts])
        near = difflib.get_close_matches(str(parts[-1]), known, n=1)
        hint = f"Did you mean {near[0]}" if near else f"Known keys: {', '.join(known)}"
        return Problem(where, "unknown key", hint)
    if kind == "missing":
        return Problem(where, "a value is needed", "Add the key")
    what = f"{given!r} is not valid" if not isinstance(given, dict) else "not valid"
    message = details["msg"].removeprefix("Value error, ")
    return Problem(where, what, message[0].upper() + message[1:])


def _keys_beside(parts: list[str]) -> list[str]:
    """Keys that are known where an unknown one was found."""
    model: Any = Config
    for part in parts[:-1]:
        if part.isdigit():
            continue
        field = model.model_fields.get(part)
        if field is None:
            break
        model = _section_of(field.annotation) or model
    return list(model.model_fields)


def _section_of(annotation: Any) -> type[Section] | None:  # noqa: ANN401 - any typing construct
    """The `Section` class inside an annotation such as `tuple[TaskConfig, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _section_of(argument)
        if found is not None:
            return found
    return None
