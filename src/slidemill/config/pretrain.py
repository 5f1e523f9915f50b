"""Settings of the pretrain stage."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from slidemill.config.base import Device, Fraction, Name, Section

Range = tuple[Annotated[float, Field(gt=0.0)], Annotated[float, Field(gt=0.0)]]


class CropsConfig(Section):
    """Spatial crops of a slide for self-supervised training."""

    unit: Literal["share", "um"] = Field(
        "share",
        description="What sizes of crops are in. share: of the slide's extent in each axis. um: "
        "micrometres of tissue, the same for every slide, which hides how large the slide is.",
    )
    global_crops: int = Field(2, ge=2, le=8, description="Large crops a slide.")
    global_size: Range = Field((0.5, 1.0), description="Smallest and largest edge of a large crop.")
    local_crops: int = Field(4, ge=0, le=16, description="Small crops a slide.")
    local_size: Range = Field((0.2, 0.5), description="Smallest and largest edge of a small crop.")
    min_tiles: int = Field(
        4, ge=1, description="A crop grows until it has so many tiles, or the whole slide."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for key in ("global_size", "local_size"):
            low, high = getattr(self, key)
            if low > high:
                raise ValueError(f"{key} has to be [smallest, largest]")
            if self.unit == "share" and high > 1.0:
                raise ValueError(f"{key} is a share of the slide's extent, at most 1")
        return self


class HeadConfig(Section):
    """The head that maps embeddings to prototypes; used in training only."""

    prototypes: int = Field(256, ge=8, description="Outputs of the head.")
    hidden: int = Field(2048, ge=8, description="Width of its two hidden layers.")
    bottleneck: int = Field(256, ge=8, description="Width of the vector that meets prototypes.")


class IbotConfig(Section):
    """Masked tiles (dinov2, dinov2-compact): the student tells what it was not shown."""

    weight: float = Field(1.0, gt=0.0, description="Weight of the loss on masked tiles.")
    masked_crops: Fraction = Field(0.5, description="Share of the large crops that get a mask.")
    ratio: tuple[Fraction, Fraction] = Field(
        (0.1, 0.5),
        description="Smallest and largest share of a masked crop's tiles that is hidden.",
    )
    mask: Literal["random", "block"] = Field(
        "random", description="random: single tiles. block: one square of neighbours."
    )
    separate_head: bool = Field(
        False, description="Whether tiles have a head of their own, or share the slide token's."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not 0.0 < self.ratio[0] <= self.ratio[1] < 1.0:
            raise ValueError("ratio has to be [smallest, largest], above 0 and below 1")
        return self


class PretrainRun(Section):
    """One slide encoder per tile encoder, trained without labels."""

    name: Name = Field("dinov2", description="Label of the run; part of its folder's name.")
    method: Literal["dino", "dinov2", "dinov2-compact"] = Field(
        "dinov2",
        description="dino: self-distillation of the slide token between crops. dinov2: and of "
        "masked tiles, with a regulariser. dinov2-compact: dinov2 on tiles that were moved "
        "together into a square before cropping.",
    )
    attention: Literal["exact", "longnet"] = Field(
        "exact", description="exact: softmax over all tiles. longnet: dilated attention."
    )
    patients: Literal["per-fold", "split", "all"] = Field(
        "per-fold",
        description="per-fold: one encoder a fold, which never saw its test patients. split: only "
        "rows of the sheet with split = pretrain. all: everything; stated beside every result.",
    )
    size: str = Field(
        "6x384",
        pattern=r"^[1-9][0-9]*x[1-9][0-9]*$",
        description="Blocks x width of the slide encoder: 6x384, 12x768, 24x1024 or others.",
    )
    heads: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="Attention heads; auto is one for every 64 of the width."
    )
    ordering: Literal["stored", "row-major", "hilbert"] = Field(
        "hilbert",
        description="dinov2-compact: order in which tiles fill the square. stored: the file's, as "
        "published. row-major, hilbert: neighbours in tissue stay near.",
    )
    max_tiles: int = Field(
        8192, ge=8, description="Tiles of a crop at most: a region with more is made smaller."
    )
    crops: CropsConfig = Field(CropsConfig(), description="Spatial crops of a slide.")
    epochs: int = Field(100, ge=1, description="Passes over the training slides.")
    batch_slides: int = Field(32, ge=2, description="Slides a step at least, over all processes.")
    accumulate: int = Field(1, ge=1, description="Batches whose gradients make one update.")
    learning_rate: float = Field(5e-4, gt=0.0, description="Peak learning rate (AdamW).")
    warmup: Fraction = Field(0.1, description="Share of the steps with a rising learning rate.")
    weight_decay: tuple[Annotated[float, Field(ge=0.0)], Annotated[float, Field(ge=0.0)]] = Field(
        (0.04, 0.4), description="Weight decay (AdamW), first and last; half a cosine."
    )
    max_gradient: float = Field(3.0, gt=0.0, description="Gradients are clipped to this norm.")
    frozen_head: Fraction = Field(
        0.01, description="Share of the steps at the start in which prototypes stay as they are."
    )
    teacher_momentum: float = Field(
        0.996, ge=0.0, lt=1.0, description="First momentum of the teacher; rises to 1 by a cosine."
    )
    student_temperature: float = Field(0.1, gt=0.0, description="Temperature of the student.")
    teacher_temperature: Range = Field(
        (0.01, 0.01), description="Temperature of the teacher, first and last."
    )
    teacher_warmup: Fraction = Field(
        0.3, description="Share of the steps in which the teacher's temperature rises, linearly."
    )
    targets: Literal["auto", "centring", "sinkhorn"] = Field(
        "auto",
        description="What keeps the teacher from giving one answer to all: a moving centre, or "
        "Sinkhorn-Knopp over the step's slides. auto: sinkhorn.",
    )
    centre_momentum: float = Field(0.9, ge=0.0, lt=1.0, description="Momentum of the centre.")
    head: HeadConfig = Field(HeadConfig(), description="The head, used in training only.")
    ibot: IbotConfig = Field(IbotConfig(), description="Masked tiles: dinov2, dinov2-compact.")
    regulariser: Literal["auto", "koleo", "kde", "none"] = Field(
        "auto",
        description="What spreads embeddings of different slides: koleo (distance to the nearest), "
        "kde (density) or none. auto: koleo.",
    )
    regulariser_weight: float = Field(0.1, gt=0.0, description="Weight of the regulariser.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Arithmetic of the encoder: auto is bf16 on CUDA, fp32 elsewhere."
    )
    seed: int = Field(0, ge=0, description="Seed of initial weights, order, crops and masks.")

    @property
    def depth(self) -> int:
        """Blocks of the encoder."""
        return int(self.size.split("x")[0])

    @property
    def width(self) -> int:
        """Width of the encoder."""
        return int(self.size.split("x")[1])

    @property
    def n_heads(self) -> int:
        """Attention heads."""
        return max(self.width // 64, 1) if self.heads == "auto" else self.heads

    @property
    def masks_tiles(self) -> bool:
        """Whether the method has the loss on masked tiles."""
        return self.method != "dino"

    @property
    def chosen_targets(self) -> Literal["centring", "sinkhorn"]:
        """How the teacher's targets are made."""
        return "sinkhorn" if self.targets == "auto" else self.targets

    @property
    def chosen_regulariser(self) -> Literal["koleo", "kde", "none"]:
        """The regulariser."""
        return "koleo" if self.regulariser == "auto" else self.regulariser

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % (4 * self.n_heads):
            raise ValueError("the width (of size) has to be a multiple of 4 x heads")
        if not self.masks_tiles and self.ibot != IbotConfig():
            raise ValueError("ibot is of dinov2 and dinov2-compact: leave it out, or change method")
        if self.method == "dinov2-compact" and self.crops.unit == "um":
            raise ValueError("dinov2-compact cuts shares of its square: crops.unit has to be share")
        return self


class PretrainConfig(Section):
    """Slide encoders trained without labels."""

    runs: tuple[PretrainRun, ...] = Field(
        (), description="May be empty; each is one slide encoder per tile encoder."
    )
    device: Device = Field("auto", description="Where slide encoders are trained.")
    processes: int = Field(
        1, ge=1, description="Processes of a training on one node, one a GPU (torchrun)."
    )
    token_budget: int = Field(
        131_072,
        ge=1,
        description="Tiles of a pass through the encoder at most; a step of more is computed in "
        "several passes with the same result, for a third more of the student's work.",
    )
    checkpointing: bool = Field(
        False, description="Compute activations again in the backward pass: slower, less memory."
    )
    compile: bool = Field(False, description="Compile the encoder (torch.compile), for CUDA.")
    readers: int = Field(4, ge=1, description="Threads that read crops ahead of the training.")
    save_minutes: float = Field(
        10.0, gt=0.0, description="Time between states that a killed training goes on from."
    )
    tensorboard: bool = Field(False, description="Write TensorBoard events beside the metrics.")

    @field_validator("runs")
    @classmethod
    def _distinct(cls, value: tuple[PretrainRun, ...]) -> tuple[PretrainRun, ...]:
        if len({run.name for run in value}) != len(value):
            raise ValueError("two runs have the same name")
        return value
