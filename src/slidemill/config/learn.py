"""Settings of the features and pretrain stages."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from slidemill.config.base import Device, Fraction, Name, Section


class EncoderEntry(Section):
    """An encoder in the long form: own weights, or another output than its default."""

    name: str = Field(description="A name from `slidemill encoders`, or timm:NAME.")
    checkpoint: str | None = Field(
        None, description="A safetensors or state-dict file to load instead of published weights."
    )
    output: Literal["auto", "cls", "mean", "cls+mean", "pooled"] = Field(
        "auto",
        description="The feature: class token, mean of the patch tokens, both, or the network's "
        "own pooling; auto is the choice of its authors.",
    )
    trust_remote_code: bool = Field(
        False,
        description="Run Python code or a stored program that comes with the weights. Read it "
        "first.",
    )


class FeaturesConfig(Section):
    """Which encoders turn tiles into features."""

    encoders: tuple[str | EncoderEntry, ...] = Field(
        ("hed-texture",),
        min_length=1,
        description="Names from `slidemill encoders`, or timm:NAME; each gets its own folder and "
        "all are compared. {name: ..., checkpoint: PATH} loads weights of your own; further keys: "
        "output, trust_remote_code.",
    )
    precision: Literal["auto", "fp32", "fp16", "bf16"] = Field(
        "auto",
        description="Arithmetic of the networks; auto is what each encoder's authors recommend.",
    )
    dtype: Literal["auto", "float16", "float32"] = Field(
        "auto",
        description="Numbers in the files; auto is float32 for encoders that run in fp32, and "
        "float16 for others.",
    )
    tokens: bool = Field(
        False, description="Keep every tile's grid of patch tokens too; hundreds of times larger."
    )
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="Tiles a batch; auto takes what the device's memory holds. Halves itself when "
        "memory runs out; does not change the results.",
    )
    compile: bool = Field(
        False, description="Compile networks (torch.compile): slow to start, faster on a GPU."
    )
    max_unreadable: Fraction = Field(
        0.1,
        description="A slide of which more than this share of tiles does not decode has failed.",
    )
    device: Device = Field(
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
            EncoderEntry.model_validate({"name": entry}) if isinstance(entry, str) else entry
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
    device: Device = Field("auto", description="Where slide encoders are trained.")

    @field_validator("runs")
    @classmethod
    def _distinct(cls, value: tuple[PretrainRun, ...]) -> tuple[PretrainRun, ...]:
        if len({run.name for run in value}) != len(value):
            raise ValueError("two runs have the same name")
        return value
