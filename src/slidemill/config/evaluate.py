"""Settings of the evaluation: tasks, protocols, models."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from slidemill.config.base import Device, Fraction, Name, Section

TaskType = Literal["binary", "multiclass", "multilabel", "regression", "survival"]
ModelName = Literal[
    "abmil",
    "mean-pool",
    "max-pool",
    "clam-sb",
    "dsmil",
    "transmil",
    "linear-probe",
    "ridge",
    "cox",
    "knn",
    "simpleshot",
]
ON_BAGS: frozenset[ModelName] = frozenset(
    ("abmil", "mean-pool", "max-pool", "clam-sb", "dsmil", "transmil")
)
"""Models on bags of tiles; the others take one vector a slide."""
InputKind = Literal["tiles", "slides", "both"]
Control = Literal[
    "shuffled-labels",
    "mean-features",
    "max-features",
    "tile-count",
    "site",
    "cls",
    "random-init",
    "shuffled-coordinates",
    "mean-tokens",
    "random-init-mean-tokens",
    "shuffled-mean-tokens",
    "layers",
    "random-init-layers",
    "shuffled-layers",
    "cls+mean",
]


class TaskConfig(Section):
    """One label to predict."""

    name: Name = Field(description="Label of the task; part of its folder's name.")
    column: str | tuple[str, ...] = Field(
        description="Column of the sheet that holds the label; the time of a survival task; a list "
        "of columns for multilabel."
    )
    type: TaskType = Field(
        "binary",
        description="binary, multiclass, multilabel (columns of two classes each), regression, "
        "survival.",
    )
    positive: str | None = Field(
        None,
        description="The label that counts as positive; by default the later one in order, of "
        "numbers the larger.",
    )
    classes: tuple[str, ...] = Field(
        (),
        description="Classes of a multiclass task in their order, which quadratic kappa uses; by "
        "default numbers by their size, and all else in alphabetical order.",
    )
    event: str | None = Field(
        None, description="Column of a survival task: 1 where the event was seen, 0 if censored."
    )
    splits: str | None = Field(
        None, description="Splits of this task's own, instead of evaluate.splits."
    )
    shuffle_labels: bool = Field(
        False,
        description="The whole task as a control: labels permuted among patients.",
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the sheet that the task reads."""
        named = (self.column,) if isinstance(self.column, str) else self.column
        return named if self.event is None else (*named, self.event)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        several = not isinstance(self.column, str)
        if several != (self.type == "multilabel"):
            raise ValueError("column is a list for multilabel tasks, and for no other")
        if several and len(set(self.column)) != len(self.column):
            raise ValueError("column names a column twice")
        if (self.event is not None) != (self.type == "survival"):
            raise ValueError("event is a column for survival tasks, and for no other")
        if self.classes and self.type != "multiclass":
            raise ValueError("classes are for multiclass tasks only")
        if self.positive is not None and self.type not in ("binary", "multilabel"):
            raise ValueError("positive is for binary and multilabel tasks only")
        return self


class MilConfig(Section):
    """Training of the models on bags of tiles."""

    width: int = Field(128, ge=4, description="Width of the tile embedding.")
    hidden: tuple[Annotated[int, Field(ge=4)], ...] = Field(
        (), description="Widths of layers before the embedding."
    )
    dropout: Fraction = Field(0.25, description="Dropout on the tile embedding.")
    epochs: int = Field(40, ge=1, description="Passes over the training bags.")
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="adamw, or sgd with a momentum of 0.9."
    )
    learning_rate: float = Field(1e-3, gt=0.0, description="First learning rate.")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="cosine: the learning rate falls to 0 by half a cosine."
    )
    weight_decay: float = Field(1e-3, ge=0.0, description="Weight decay.")
    batch_bags: int = Field(8, ge=1, description="Training bags a step, on average.")
    max_tiles: int = Field(4096, ge=16, description="Tiles drawn from a bag in a training step.")
    class_weight: Literal["balanced", "none"] = Field(
        "balanced", description="balanced: classes weigh alike, whatever their sizes."
    )
    patience: int = Field(
        0,
        ge=0,
        description="Stop after so many epochs without a lower loss on inner validation, and take "
        "the best epoch; 0 trains on all training patients for all epochs and takes the last.",
    )


class AbmilConfig(Section):
    """Attention MIL (Ilse et al. 2018)."""

    gated: bool = Field(True, description="Gated attention; false is the plain one.")
    heads: int = Field(1, ge=1, le=64, description="Attention heads; their bags are joined.")
    attention_width: int = Field(64, ge=2, description="Width of the attention.")


class LinearProbeConfig(Section):
    """L2-regularised regression on one vector a slide: logistic, ridge or Cox."""

    strength: Literal["inner"] | Annotated[float, Field(gt=0.0)] = Field(
        "inner",
        description="inner: the strength of the penalty is chosen on inner folds; or a number, "
        "the C of logistic regression and 1 / alpha of the others.",
    )


class KnnConfig(Section):
    """Nearest neighbours on one vector a slide."""

    k: int = Field(20, ge=1, description="Neighbours; no more than there are.")
    temperature: float = Field(0.07, gt=0.0, description="Temperature of the votes' weights.")


class SurvivalConfig(Section):
    """How models on bags learn a time to an event."""

    head: Literal["discrete-time", "cox"] = Field(
        "discrete-time", description="Hazards of a few intervals, or one risk (Cox)."
    )
    bins: int = Field(4, ge=2, le=64, description="Intervals of the discrete-time head.")
    batch_bags: int = Field(
        32, ge=2, description="Training bags a step: Cox's loss compares the bags of a step."
    )


class ModelEntry(Section):
    """A model in the long form: another name, inputs or settings of its own."""

    name: ModelName = Field(description="The model.")
    label: Name | None = Field(None, description="Its name in tables; by default the model's.")
    inputs: tuple[InputKind, ...] | None = Field(
        None, min_length=1, description="Inputs of this model, instead of evaluate.inputs."
    )
    mil: MilConfig | None = Field(None, description="Instead of evaluate.mil.")
    abmil: AbmilConfig | None = Field(None, description="Instead of evaluate.abmil.")
    linear_probe: LinearProbeConfig | None = Field(
        None, description="Instead of evaluate.linear_probe."
    )
    knn: KnnConfig | None = Field(None, description="Instead of evaluate.knn.")

    @property
    def shown(self) -> str:
        """Its name in tables."""
        return self.label or self.name


class EvaluateConfig(Section):
    """What is predicted, by which models, under which protocol."""

    tasks: tuple[TaskConfig, ...] = Field((), description="Labels to predict; may be empty.")
    models: tuple[ModelName | ModelEntry, ...] = Field(
        ("abmil", "linear-probe"),
        min_length=1,
        description="On bags of tiles: abmil, mean-pool, max-pool, clam-sb, dsmil, transmil. On "
        "one vector a slide: linear-probe, ridge, cox, knn, simpleshot. All see the same folds; "
        "each is run on the tasks that it can do. {name: ..., label: ...} has settings of its own.",
    )
    inputs: tuple[InputKind, ...] = Field(
        ("tiles", "slides"),
        min_length=1,
        description="tiles: tile features (their mean, for models on vectors). slides: embeddings "
        "of the slide encoders; models on bags take them only if their own `inputs` say so. both: "
        "the one beside the other.",
    )
    protocol: Literal["k-fold", "split", "leave-one-site-out"] = Field(
        "k-fold",
        description="k-fold: grouped by patient, stratified by label. split: the sheet's split "
        "column says train, validate, test. leave-one-site-out: each site is tested once.",
    )
    folds: int = Field(5, ge=2, description="Folds of k-fold.")
    repeats: int = Field(1, ge=1, description="Repetitions with other shuffles and seeds.")
    site: str | None = Field(
        None, description="Column of the sheet with the site, for leave-one-site-out and controls."
    )
    few_shot: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="Also train on so many patients a class, such as [1, 5, 10, 25]."
    )
    few_ratio: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = Field(
        (),
        description="Also train on such shares of the training patients, such as [0.01, 0.05, 0.1, "
        "0.25, 0.5, 1].",
    )
    draws: int = Field(5, ge=1, description="Draws of few_shot and few_ratio.")
    retrieval: bool = Field(
        False, description="Also find slides of the same class, one patient left out at a time."
    )
    validation: float = Field(
        0.2, gt=0.0, lt=0.5, description="Share of the training patients for inner validation."
    )
    inner_folds: int = Field(5, ge=2, description="Inner folds that choose strengths.")
    patient: Literal["mean", "joint-bag", "one"] = Field(
        "mean",
        description="Several slides a patient. mean: of their predictions. joint-bag: all tiles "
        "in one bag. one: the slide with the most tiles.",
    )
    controls: tuple[Control, ...] = Field(
        get_args(Control),
        description="Rows that say what a result is worth. shuffled-labels: nothing to learn. "
        "mean-features: a linear probe on the mean of the tiles. tile-count: one on their number "
        "alone. site: one that predicts the site (needs evaluate.site). The others come with slide "
        "encoders. max-features: the largest values of the tiles. cls, mean-tokens, layers: the "
        "class token, the mean of the tiles' tokens, the class tokens of all layers. cls+mean: the "
        "class token beside the mean of the tiles. random-init...: the encoder before its first "
        "step. shuffled-coordinates, shuffled-...: the tiles' places permuted.",
    )
    seed: int = Field(0, ge=0, description="Seed of folds, models and bootstrap.")
    device: Device = Field("auto", description="Where models on bags are trained.")
    bootstrap: int = Field(1000, ge=100, description="Draws of patients for the 95 % intervals.")
    splits: str | None = Field(
        None,
        description="A splits.json of another run, or a .parquet or .csv of your own (task, "
        "repeat, fold, patient_id).",
    )
    mil: MilConfig = Field(MilConfig(), description="Training of the models on bags of tiles.")
    abmil: AbmilConfig = Field(AbmilConfig(), description="Settings of abmil.")
    linear_probe: LinearProbeConfig = Field(
        LinearProbeConfig(), description="Settings of linear-probe, ridge and cox."
    )
    knn: KnnConfig = Field(KnnConfig(), description="Settings of knn.")
    survival: SurvivalConfig = Field(
        SurvivalConfig(), description="How models on bags learn a time to an event."
    )

    @field_validator("tasks")
    @classmethod
    def _distinct(cls, value: tuple[TaskConfig, ...]) -> tuple[TaskConfig, ...]:
        if len({task.name for task in value}) != len(value):
            raise ValueError("two tasks have the same name")
        return value

    @model_validator(mode="after")
    def _labels(self) -> Self:
        labels = [entry.shown for entry in self.entries()]
        if len(set(labels)) != len(labels):
            raise ValueError("two models have the same label: give one of them another `label`")
        if self.protocol == "leave-one-site-out" and self.site is None:
            raise ValueError("leave-one-site-out needs `site`, the column of the sheet with it")
        return self

    def entries(self) -> tuple[ModelEntry, ...]:
        """Every model in the long form, its settings filled in."""
        return tuple(self._filled(entry) for entry in self.models)

    def _inputs_of(self, name: ModelName) -> tuple[InputKind, ...]:
        # A bag of one embedding is no bag: that is what the models on vectors are for.
        return tuple(k for k in self.inputs if k != "slides" or name not in ON_BAGS)

    def _filled(self, entry: ModelName | ModelEntry) -> ModelEntry:
        given = ModelEntry(name=entry) if isinstance(entry, str) else entry
        return given.model_copy(
            update={
                "label": given.shown,
                "inputs": given.inputs or self._inputs_of(given.name),
                "mil": given.mil or self.mil,
                "abmil": given.abmil or self.abmil,
                "linear_probe": given.linear_probe or self.linear_probe,
                "knn": given.knn or self.knn,
            }
        )
