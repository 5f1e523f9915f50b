"""The controls of a slide encoder: which rows there are, and what they read.

Facts only; nothing heavy is imported here, so that a plan can ask. All are the task's probe on
another vector of the same slides, so that two rows differ by the vector alone.
"""

from dataclasses import dataclass

from slidemill.config.evaluate import Control, InputKind


@dataclass(frozen=True)
class EncoderControl:
    """A control of a slide encoder.

    Attributes:
        kind: slides, or both: the embedding beside the mean of the tiles.
        readout: Dataset of the slide's embedding that it reads.
        about: What it is, in a few words.
    """

    kind: InputKind
    readout: str
    about: str


ENCODER_CONTROLS: dict[Control, EncoderControl] = {
    "cls": EncoderControl("slides", "cls", "class token"),
    "random-init": EncoderControl(
        "slides", "random_init_cls", "class token of the encoder before its first step"
    ),
    "shuffled-coordinates": EncoderControl(
        "slides", "shuffled_cls", "class token, places of the tiles permuted"
    ),
    "mean-tokens": EncoderControl("slides", "mean_tokens", "mean of the tiles' tokens"),
    "random-init-mean-tokens": EncoderControl(
        "slides", "random_init_mean_tokens", "mean of tokens of the encoder before its first step"
    ),
    "shuffled-mean-tokens": EncoderControl(
        "slides", "shuffled_mean_tokens", "mean of tokens, places of the tiles permuted"
    ),
    "layers": EncoderControl("slides", "layers", "class tokens of all layers, one after the other"),
    "random-init-layers": EncoderControl(
        "slides", "random_init_layers", "all layers of the encoder before its first step"
    ),
    "shuffled-layers": EncoderControl(
        "slides", "shuffled_layers", "all layers, places of the tiles permuted"
    ),
    "cls+mean": EncoderControl("both", "cls", "class token beside the mean of the tiles"),
}
"""Controls that are made of a slide encoder, in the order of tables."""


@dataclass(frozen=True)
class Readout:
    """One way to read a slide out of a slide encoder, and the controls of that way.

    Attributes:
        trained: The row of the trained encoder.
        random_init: The same readout before the first step; None for what has no such thing.
        shuffled: The same readout with the places of tiles permuted; None likewise.
        about: What it is, for people.
    """

    trained: Control
    random_init: Control | None
    shuffled: Control | None
    about: str


READOUTS: tuple[Readout, ...] = (
    Readout("cls", "random-init", "shuffled-coordinates", "class token"),
    Readout("mean-tokens", "random-init-mean-tokens", "shuffled-mean-tokens", "mean of tokens"),
    Readout("layers", "random-init-layers", "shuffled-layers", "all layers"),
    Readout("cls+mean", None, None, "class token + mean of tiles"),
)
"""Readouts in the order of tables."""

ALL_CONTROLS = "controls"
"""`control` of the cell that makes all controls of a slide encoder."""

IN_FOREST: tuple[Control, ...] = ("random-init", "shuffled-coordinates")
"""Controls of slide encoders that the forest plot shows beside results; tables show all."""
