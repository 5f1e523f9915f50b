"""Settings of the features stage."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from slidemill.config.base import Device, Fraction, Section


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
