"""The configuration, typed once.

Every key of `config.yaml` is declared here with its type, its default and its meaning; the JSON
schema in `workflow/schemas/` and the commented `config.yaml` are generated from these classes
(`python -m slidemill.generate`), and a test fails when they drift. Unknown keys are errors, and all
faults are reported together, each with its place and what to do.
"""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from slidemill.errors import ConfigError, Problem

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""What names that become part of a path may look like."""

Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=80)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
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


class Section(BaseModel):
    """Base of every section: unknown keys are refused and values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CohortConfig(Section):
    """Which slides, and what to do about their faults."""

    sheet: str = Field(
        "demo/slides.tsv",
        description="The slide sheet (.tsv or .csv): slide_id, path, patient_id; optional mpp, "
        "tissue, split; every other column is a label. Relative paths in it start at its folder.",
    )
    missing_mpp: Literal["refuse", "objective"] | Annotated[float, Field(gt=0.0)] = Field(
        "refuse",
        description="A slide whose metadata and sheet give no mpp: refuse it (a failed row), take "
        "10 / objective power, or assume this number of um per pixel.",
    )
    max_failed: Fraction = Field(
        0.02, description="The run stops when more than this share of the slides has failed."
    )


class TissueConfig(Section):
    """How tissue is told from glass."""

    method: Literal["otsu"] = Field("otsu", description="Otsu's threshold on saturation.")
    mpp: float = Field(8.0, gt=0.5, le=64.0, description="Resolution of the mask, um per pixel.")
    min_area_mm2: float = Field(
        0.02, ge=0.0, description="Smaller pieces of tissue are dropped, square mm."
    )
    min_hole_mm2: float = Field(
        0.005, ge=0.0, description="Holes at least this large stay holes, square mm."
    )


class TilesConfig(Section):
    """The grid of tiles."""

    tile_px: Annotated[int, Field(ge=32, le=4096)] | Literal["auto"] = Field(
        256, description="Edge of a tile in pixels, or auto: what the encoder was trained on."
    )
    mpp: Annotated[float, Field(gt=0.0, le=32.0)] | Literal["auto"] | None = Field(
        None,
        description="Resolution of a tile in um per pixel (0.5 where nothing is said), or auto: "
        "what the encoder was trained on.",
    )
    magnification: float | None = Field(
        None, gt=0.0, le=80.0, description="Instead of mpp: 20 means 10 / 20 = 0.5 um per pixel."
    )
    overlap_px: int = Field(0, ge=0, description="Pixels that neighbouring tiles share.")
    min_tissue: Fraction = Field(
        0.25, description="Tiles with a smaller tissue fraction are not kept."
    )
    grid: Literal["exact"] = Field(
        "exact", description="One global grid a slide, exact physical tile size, row-major."
    )

    @model_validator(mode="after")
    def _one_resolution(self) -> Self:
        if self.mpp is not None and self.magnification is not None:
            raise ValueError("give mpp or magnification, not both")
        if isinstance(self.tile_px, int) and self.overlap_px >= self.tile_px:
            raise ValueError("overlap_px has to be smaller than tile_px")
        return self

    def resolved_mpp(self) -> float | Literal["auto"]:
        """Resolution of a tile in um per pixel, whichever key gave it."""
        if self.magnification is not None:
            return 10.0 / self.magnification
        return 0.5 if self.mpp is None else self.mpp


class EncoderEntry(Section):
    """An encoder with weights of the user's own."""

    name: str = Field(description="A name from `slidemill encoders`, or timm:NAME.")
    checkpoint: str | None = Field(
        None, description="A safetensors or state-dict file to load instead of published weights."
    )


class FeaturesConfig(Section):
    """Which encoders turn tiles into features."""

    encoders: tuple[str | EncoderEntry, ...] = Field(
        ("hed-texture",),
        min_length=1,
        description="Names from `slidemill encoders`, or timm:NAME; each gets its own folder and "
        "all are compared. {name: ..., checkpoint: PATH} loads weights of your own.",
    )
    precision: Literal["auto", "fp32", "fp16", "bf16"] = Field(
        "auto", description="Arithmetic of the encoder; auto is the encoder's own, fp32 on a CPU."
    )
    batch_size: int = Field(64, ge=1, description="Tiles a batch; does not change the results.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="Where encoders run; auto takes a GPU where there is one."
    )

    @field_validator("encoders")
    @classmethod
    def _distinct(cls, value: tuple[str | EncoderEntry, ...]) -> tuple[str | EncoderEntry, ...]:
        if len({repr(entry) for entry in value}) != len(value):
            raise ValueError("the same encoder is named twice")
        return value

    def entries(self) -> tuple[EncoderEntry, ...]:
        """Every encoder in the long form."""
        return tuple(
            EncoderEntry(name=entry, checkpoint=None) if isinstance(entry, str) else entry
            for entry in self.encoders
        )


class CropsConfig(Section):
    """Spatial crops of a slide for self-supervised training."""

    global_crops: int = Field(2, ge=2, le=8, description="Large crops a slide.")
    global_scale: tuple[Fraction, Fraction] = Field(
        (0.5, 1.0), description="Smallest and largest edge of a large crop, share of the slide's."
    )
    local_crops: int = Field(4, ge=0, le=16, description="Small crops a slide.")
    local_scale: tuple[Fraction, Fraction] = Field(
        (0.2, 0.5), description="Smallest and largest edge of a small crop, share of the slide's."
    )
    min_tiles: int = Field(4, ge=1, description="A crop has at least so many tiles.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for key in ("global_scale", "local_scale"):
            low, high = getattr(self, key)
            if not 0.0 < low <= high:
                raise ValueError(f"{key} has to be [smallest, largest], both above 0")
        return self


class PretrainRun(Section):
    """One slide encoder per tile encoder, trained without labels."""

    name: Name = Field("dino", description="Label of the run; part of its folder's name.")
    method: Literal["dino"] = Field("dino", description="Self-distillation of the slide token.")
    attention: Literal["exact"] = Field("exact", description="Softmax attention over all tiles.")
    patients: Literal["per-fold", "split", "all"] = Field(
        "per-fold",
        description="per-fold: one encoder a fold, which never saw its test patients. split: only "
        "rows of the sheet with split = pretrain. all: everything; stated beside every result.",
    )
    width: int = Field(384, ge=16, description="Width of the transformer.")
    depth: int = Field(6, ge=1, description="Layers of the transformer.")
    heads: int = Field(6, ge=1, description="Attention heads; divides the width.")
    prototypes: int = Field(4096, ge=8, description="Outputs of the DINO head.")
    max_tiles: int = Field(
        8192, ge=8, description="Crops are cut from at most so many tiles a slide, drawn anew."
    )
    epochs: int = Field(100, ge=1, description="Passes over the training slides.")
    batch_slides: int = Field(32, ge=2, description="Slides a step.")
    learning_rate: float = Field(5e-4, gt=0.0, description="Peak learning rate (AdamW).")
    weight_decay: float = Field(0.04, ge=0.0, description="Weight decay (AdamW).")
    warmup: Fraction = Field(0.1, description="Share of the steps with a rising learning rate.")
    teacher_momentum: float = Field(
        0.996, ge=0.0, lt=1.0, description="First momentum of the teacher; rises to 1 by a cosine."
    )
    student_temperature: float = Field(0.1, gt=0.0, description="Temperature of the student.")
    teacher_temperature: float = Field(0.04, gt=0.0, description="Temperature of the teacher.")
    centre_momentum: float = Field(0.9, ge=0.0, lt=1.0, description="Momentum of the centre.")
    crops: CropsConfig = Field(CropsConfig(), description="Spatial crops of a slide.")
    seed: int = Field(0, ge=0, description="Seed of initial weights, order and crops.")

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.width % (4 * self.heads):
            raise ValueError("width has to be a multiple of 4 x heads")
        return self


class PretrainConfig(Section):
    """Slide encoders trained without labels."""

    runs: tuple[PretrainRun, ...] = Field(
        (), description="May be empty; each is one slide encoder per tile encoder."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="Where slide encoders are trained."
    )

    @field_validator("runs")
    @classmethod
    def _distinct(cls, value: tuple[PretrainRun, ...]) -> tuple[PretrainRun, ...]:
        if len({run.name for run in value}) != len(value):
            raise ValueError("two runs have the same name")
        return value


class TaskConfig(Section):
    """One label to predict."""

    name: Name = Field(description="Label of the task; part of its folder's name.")
    column: str = Field(description="Column of the sheet that holds the label.")
    type: Literal["binary"] = Field("binary", description="Two classes.")
    positive: str | None = Field(
        None, description="The label that counts as positive; by default the later one in order."
    )
    shuffle_labels: bool = Field(
        False,
        description="A control: labels permuted among patients. Its intervals have to cover 0.5.",
    )


class AbmilConfig(Section):
    """Gated attention MIL (Ilse et al. 2018)."""

    width: int = Field(128, ge=4, description="Width of the tile embedding.")
    attention_width: int = Field(64, ge=2, description="Width of the gated attention.")
    dropout: Fraction = Field(0.25, description="Dropout on the tile embedding.")
    epochs: int = Field(40, ge=1, description="Passes over the training bags.")
    learning_rate: float = Field(1e-3, gt=0.0, description="Learning rate (AdamW).")
    weight_decay: float = Field(1e-3, ge=0.0, description="Weight decay (AdamW).")
    batch_bags: int = Field(8, ge=1, description="Bags a step.")
    max_tiles: int = Field(4096, ge=16, description="Tiles drawn from a bag in a training step.")


class LinearProbeConfig(Section):
    """L2-regularised logistic regression on one vector a slide."""

    C: float = Field(0.5, gt=0.0, description="Inverse strength of the regularisation.")


class EvaluateConfig(Section):
    """What is predicted, by which models, under which protocol."""

    tasks: tuple[TaskConfig, ...] = Field((), description="Labels to predict; may be empty.")
    models: tuple[Literal["abmil", "linear-probe"], ...] = Field(
        ("abmil", "linear-probe"),
        min_length=1,
        description="abmil on tile features; linear-probe on their mean and on slide embeddings. "
        "All see the same folds.",
    )
    folds: int = Field(5, ge=2, description="Patient-grouped, label-stratified folds.")
    repeats: int = Field(1, ge=1, description="Repetitions of the k-fold with other shuffles.")
    seed: int = Field(0, ge=0, description="Seed of folds, models and bootstrap.")
    bootstrap: int = Field(1000, ge=100, description="Draws of patients for the 95 % intervals.")
    splits: str | None = Field(
        None, description="A splits.parquet or .csv of your own (task, repeat, fold, patient_id)."
    )
    abmil: AbmilConfig = Field(AbmilConfig(), description="Settings of abmil.")
    linear_probe: LinearProbeConfig = Field(
        LinearProbeConfig(),
        description="Settings of linear-probe.",
    )

    @field_validator("tasks")
    @classmethod
    def _distinct(cls, value: tuple[TaskConfig, ...]) -> tuple[TaskConfig, ...]:
        if len({task.name for task in value}) != len(value):
            raise ValueError("two tasks have the same name")
        return value


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
    recompute: tuple[Recompute | Literal["failed"], ...] = Field(
        (),
        description="For the command line only (--config recompute=features): stages, separated by "
        "commas, that run again although their results are there; failed: the failed slides.",
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
        problem = Problem(str(path), f"not YAML ({error})".replace("\n", " "), "Mend the syntax")
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
