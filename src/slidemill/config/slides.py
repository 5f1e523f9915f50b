"""Settings of the stages that read slides: cohort, tissue, tiles."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from slidemill.config.base import Device, Fraction, Section
from slidemill.tissue.classes import KINDS, Kind, in_order

Reader = Literal["auto", "openslide", "tiff", "wsidicom", "cucim", "image"]
Twins = Literal["refuse", "join", "keep"]


class CohortConfig(Section):
    """Which slides, and what to do about their faults."""

    sheet: str = Field(
        "demo/slides.tsv",
        description="The slide sheet (.csv, .tsv, .txt, .xlsx): slide_id, path, patient_id (may be "
        "absent where nothing is evaluated); optional mpp, tissue, split, scene, exclude; every "
        "other column is a label. Relative paths in it start at its folder.",
    )
    missing_values: tuple[str, ...] = Field(
        (),
        description="Cells of the sheet that are missing values, besides empty ones, NA, N/A, NaN, "
        "null, [Not Available], [Unknown] and -; upper and lower case are the same.",
    )
    twins: Twins = Field(
        "refuse",
        description="Patients or slides whose ids differ only by case, leading zeros, a decimal "
        "point or characters that cannot be seen (P1 and p1; 7, 007 and 7.0): refuse the sheet, "
        "join patients under the spelling that comes first, or keep them apart.",
    )
    missing_mpp: Literal["refuse", "objective"] | Annotated[float, Field(gt=0.0)] = Field(
        "refuse",
        description="A slide whose metadata and sheet give no mpp: refuse it (a failed row), take "
        "10 / objective power, or assume this number of um per pixel.",
    )
    reader: Reader = Field(
        "auto",
        description="Library that reads the slides; auto chooses by what the file is. tiff is "
        "slidemill's own reader of tiled and striped TIFF; cucim is never chosen by itself.",
    )
    max_failed: Fraction = Field(
        0.02,
        description="The run stops when more than this share of the slides has failed, and more "
        "than two of them; 0 stops it at the first. It looks when all buckets of a stage are done: "
        "no job is stopped early.",
    )
    slide_seconds: float = Field(
        1800.0,
        gt=0.0,
        description="A slide on which one stage works longer than this fails; changes no result.",
    )
    stage_slides: bool = Field(
        False,
        description="Whether tissue, tiles and features copy a slide to the job's scratch folder "
        "(TMPDIR) before they read it, and remove the copy afterwards: for slow shared file "
        "systems. Changes no result.",
    )


class UnetConfig(Section):
    """A segmentation network with weights of the user's own."""

    checkpoint: str | None = Field(
        None, description="A safetensors or state-dict file; method: unet needs it."
    )
    architecture: Literal[
        "unet", "unetplusplus", "deeplabv3", "deeplabv3plus", "fpn", "torchvision-deeplabv3"
    ] = Field("unetplusplus", description="By segmentation-models-pytorch, or by torchvision.")
    backbone: str = Field(
        "timm-efficientnet-b0",
        pattern=r"^[A-Za-z0-9_.-]+$",
        description="Encoder of the network as segmentation-models-pytorch names it; tu-NAME is "
        "timm's. For torchvision-deeplabv3: resnet50 or resnet101.",
    )
    classes: tuple[Literal["glass", "tissue", "pen", "black", "other"], ...] = Field(
        ("tissue", "glass"),
        min_length=2,
        description="What the network's outputs mean, in their order; a name may be there twice.",
    )
    mpp: float = Field(10.0, ge=0.5, le=64.0, description="Resolution it was trained at.")
    tile_px: int = Field(512, ge=64, le=4096, multiple_of=32, description="Edge of its input.")
    mean: tuple[float, float, float] = Field(
        (0.485, 0.456, 0.406), description="Mean of its inputs' channels, of 0 to 1."
    )
    std: tuple[float, float, float] = Field(
        (0.229, 0.224, 0.225), description="Standard deviation of its inputs' channels."
    )
    device: Device = Field("auto", description="Where the network runs.")


class TissueConfig(Section):
    """How tissue is told from glass."""

    method: Literal["otsu", "hsv", "entropy", "unet", "import"] = Field(
        "otsu",
        description="otsu: threshold on saturation, found anew in every slide. hsv: fixed "
        "thresholds on saturation and brightness. entropy: local texture, which holds on faint "
        "and IHC stains. unet: a network of your own. import: the sheet's tissue column.",
    )
    mpp: float = Field(8.0, gt=0.5, le=64.0, description="Resolution of the mask, um per pixel.")
    min_area_mm2: float = Field(
        0.02, ge=0.0, description="Smaller pieces of tissue are dropped, square mm."
    )
    min_hole_mm2: float = Field(
        0.005, ge=0.0, description="Holes at least this large stay holes, square mm."
    )
    exclude: tuple[Kind, ...] = Field(
        KINDS,
        description="What otsu, hsv and entropy look for and leave out: pen, border (dark), edge "
        "(of the coverslip), bubble. What is not listed can be tissue; [] leaves nothing out. The "
        "sheet's exclude column overrides it for a slide (words, or none).",
    )
    unet: UnetConfig = Field(UnetConfig(), description="For method: unet.")

    @field_validator("exclude")
    @classmethod
    def _in_order(cls, kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
        return in_order(kinds)

    @model_validator(mode="after")
    def _has_weights(self) -> Self:
        if self.method == "unet" and self.unet.checkpoint is None:
            raise ValueError("method unet needs unet.checkpoint, a weight file")
        return self


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
        0.25,
        description="Tiles with a smaller tissue fraction are not kept; 0 keeps any that touch.",
    )
    max_padded: Fraction = Field(1.0, description="Largest part of a kept tile off the slide.")
    max_pen: Fraction = Field(1.0, description="Largest part of a kept tile that is pen.")
    max_white: Fraction = Field(1.0, description="Largest part of a kept tile that is white.")
    max_black: Fraction = Field(1.0, description="Largest part of a kept tile that is black.")
    min_focus: float = Field(
        0.0,
        ge=0.0,
        description="Least focus of a kept tile (its Laplacian's variance, see docs/formats.md); "
        "needs qc: pixels.",
    )
    qc: Literal["pixels", "overview"] = Field(
        "pixels",
        description="What tiles are judged by. pixels: every candidate is read as the features "
        "stage will, once, whatever the limits above are. overview: the tissue stage's picture "
        "only, which is many times faster and knows no focus.",
    )
    grid: Literal["exact", "trident", "import"] = Field(
        "exact",
        description="exact: one global grid a slide, exact physical tile size, row-major. trident: "
        "TRIDENT's coordinates, magnification by its table. import: those of coordinates.",
    )
    coordinates: str | None = Field(
        None, description="For grid: import, the folder that `slidemill import` wrote."
    )

    @model_validator(mode="after")
    def _one_resolution(self) -> Self:
        if self.mpp is not None and self.magnification is not None:
            raise ValueError("give mpp or magnification, not both")
        if isinstance(self.tile_px, int) and self.overlap_px >= self.tile_px:
            raise ValueError("overlap_px has to be smaller than tile_px")
        if self.qc != "pixels" and self.min_focus > 0:
            raise ValueError("min_focus needs qc: pixels, since an overview knows no focus")
        if (self.grid == "import") != (self.coordinates is not None):
            raise ValueError("grid: import and coordinates belong together")
        if self.grid == "trident" and "auto" in (self.tile_px, self.mpp):
            raise ValueError("grid: trident needs tile_px and magnification (or mpp) as numbers")
        return self

    def resolved_mpp(self) -> float | Literal["auto"]:
        """Resolution of a tile in um per pixel, whichever key gave it."""
        if self.magnification is not None:
            return 10.0 / self.magnification
        return 0.5 if self.mpp is None else self.mpp
