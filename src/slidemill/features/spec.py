"""What is known of a tile encoder before it is built: a row of data.

Nothing here imports torch or touches a file. Rows are in `slidemill.features.registry`; builders
(`slidemill.features.builders`) make networks of them; `slidemill.features.encoders` looks them up
and finds their weights.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Precision = Literal["fp32", "fp16", "bf16"]
Interpolation = Literal["bilinear", "bicubic"]
Output = Literal["cls", "mean", "cls+mean", "pooled"]
"""What of a network's output is the feature: its class token; the mean of its patch tokens, in
which neither the class token nor registers are; both, in this order; or the one vector that the
network itself pools (convolutional networks, attention pooling)."""
Builder = Literal[
    "handcrafted",
    "timm",
    "torchvision",
    "transformers",
    "remote",
    "exported",
    "coca",
    "beit3",
    "none",
]
"""What makes the network. `remote` runs Python code of the weights' own repository, and `exported`
a program that was stored with them: both need `trust_remote_code: true`. `none`: there are no
public weights."""

RGB3 = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """From a tile of uint8 RGB pixels to what the network is given.

    Tiles are square and stay so. A tile is resized to `resize_px` (antialiased), its centre of
    `crop_px` is cut, and it is normalised as (pixel / 255 - mean) / std.

    Attributes:
        resize_px: Edge after resizing; None takes tiles as they are, which then have `crop_px`.
        crop_px: Edge of the network's input.
        interpolation: How it is resized.
        mean: Of red, green and blue, 0 to 1.
        std: Of red, green and blue, 0 to 1.
    """

    resize_px: int | None
    crop_px: int
    interpolation: Interpolation
    mean: RGB3
    std: RGB3


@dataclass(frozen=True)
class HubFile:
    """Weights in a repository of the Hugging Face hub.

    Attributes:
        repository: `owner/name`.
        filename: The file in it.
        gated: Whether its terms have to be accepted by a person first.
    """

    repository: str
    filename: str = "model.safetensors"
    gated: bool = False

    @property
    def page(self) -> str:
        """The page to visit."""
        return f"https://huggingface.co/{self.repository}"


@dataclass(frozen=True)
class UrlFile:
    """Weights at an address of their own, such as a release.

    Attributes:
        url: The file.
        page: The page to visit.
    """

    url: str
    page: str
    gated: bool = False

    @property
    def filename(self) -> str:
        """Name of the file."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class EncoderSpec:
    """A tile encoder.

    Attributes:
        name: Its name in the configuration.
        builder: What makes it.
        arguments: What the builder is given; plain values, part of the features' digest.
        weights: Where its published weights are; None where it needs none or there are none.
        preprocessing: What its tiles go through; None where the builder knows it itself
            (handcrafted encoders, plain timm names).
        outputs: What it offers as a feature, its authors' choice first.
        width: Length of a token, or of the vector that the network pools; None where only the
            built network knows.
        prefix_tokens: Tokens before the patch tokens (class token and registers); 0 where there
            are none.
        patch_px: Edge of a patch in pixels of the network's input; None without patch tokens.
        tile_px: Edge of the tiles it was made for; None where unknown.
        mpp: Resolution it was made for, um per pixel; None where unknown or where many were used.
        precision: Arithmetic that its authors recommend; what `precision: auto` means.
        algorithm_version: Raised when code of ours changes its features.
        licence: Licence of its weights, or of its code where it has none.
        parameters: Published or counted number of parameters of the image network, as built.
        gmacs: Multiply-accumulates for one tile, 10^9.
        data: What it was trained on, and how, in a few words.
        citation: Paper.
        page: Where to read about it, or a file of ours.
        missing: Why there is nothing to load, for systems without public weights; otherwise empty.
        alternatives: Names to choose instead, for these.
        notes: What a user should know before choosing it, in a sentence; may be empty.
    """

    name: str
    builder: Builder
    outputs: tuple[Output, ...]
    width: int | None
    tile_px: int | None
    mpp: float | None
    precision: Precision
    licence: str
    page: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights: HubFile | UrlFile | None = None
    preprocessing: Preprocessing | None = None
    prefix_tokens: int = 0
    patch_px: int | None = None
    algorithm_version: int = 1
    parameters: int | None = None
    gmacs: float | None = None
    data: str = ""
    citation: str = ""
    missing: str = ""
    alternatives: tuple[str, ...] = ()
    notes: str = ""

    @property
    def needs_weights(self) -> bool:
        """Whether there are weights to load."""
        return self.builder not in ("handcrafted", "none")

    @property
    def is_gated(self) -> bool:
        """Whether a person has to accept terms before the weights can be had."""
        return self.weights is not None and self.weights.gated

    @property
    def runs_foreign_code(self) -> bool:
        """Whether building it runs code that comes with the weights."""
        return self.builder in ("remote", "exported")

    def dim(self, output: Output | None = None) -> int | None:
        """Length of a feature; None where only the built network knows."""
        chosen = output or self.outputs[0]
        if self.width is None:
            return None
        return 2 * self.width if chosen == "cls+mean" else self.width

    def recipe(self) -> dict[str, Any]:
        """All of the row that changes features: what enters the digest beside the weights."""
        return {
            "name": self.name,
            "version": self.algorithm_version,
            "builder": self.builder,
            "arguments": dict(self.arguments),
            "preprocessing": asdict(self.preprocessing) if self.preprocessing else None,
        }
