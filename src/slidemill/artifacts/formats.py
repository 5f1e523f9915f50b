"""Every artifact format of slidemill, declared.

Importing this module fills the registry of `slidemill.artifacts.spec`.
"""

from slidemill.artifacts.fields import COORDS, SLIDE_ID
from slidemill.artifacts.formats_learn import (
    ATTENTION,
    COMPARISONS,
    EMBEDDING,
    METRICS,
    MOMENTS,
    PREDICTIONS,
    PRETRAIN_METRICS,
    SPLITS,
    SUMMARY,
)
from slidemill.artifacts.formats_runs import CATALOG, RUN_RESULTS
from slidemill.artifacts.spec import ArtifactSpec, Field, register

__all__ = [
    "ATTENTION",
    "CANDIDATES",
    "CATALOG",
    "COHORT",
    "COMPARISONS",
    "COORDINATES",
    "EMBEDDING",
    "FEATURES",
    "MANIFEST",
    "METRICS",
    "MOMENTS",
    "PREDICTIONS",
    "PRETRAIN_METRICS",
    "RUN_RESULTS",
    "SLIDES",
    "SPLITS",
    "SUMMARY",
    "TILES",
    "TISSUE",
]

_STATUS = (
    Field("status", "str", "`ok` or `failed`."),
    Field("failed_stage", "str", "The stage in which the slide failed.", nullable=True),
    Field("error_code", "str", "Why it failed: one of a closed set.", nullable=True),
    Field("message", "str", "Why it failed and what can be done, in words.", nullable=True),
    Field(
        "item_digest",
        "str",
        "sha256 over the stage's digest and what this slide's result was made from.",
        nullable=True,
    ),
    Field(
        "seconds",
        "float64",
        "Wall time of the slide; missing where a result was reused.",
        nullable=True,
    ),
)
_SLIDE_FACTS = (
    Field("path", "str", "The slide file, absolute."),
    Field("tissue", "str", "A GeoJSON of tissue given in the sheet.", nullable=True),
    Field("width", "int64", "Level-0 width in pixels; 0 where unknown."),
    Field("height", "int64", "Level-0 height in pixels; 0 where unknown."),
    Field("levels", "int64", "Number of pyramid levels."),
    Field("vendor", "str", "Vendor, as the reader names it.", nullable=True),
    Field("reader", "str", "Library that opened the slide.", nullable=True),
    Field("mpp_x", "float64", "um per level-0 pixel in x.", nullable=True),
    Field("mpp_y", "float64", "um per level-0 pixel in y.", nullable=True),
    Field(
        "mpp_source",
        "str",
        "Where mpp is from: sheet, metadata:KEY, objective, config.",
        nullable=True,
    ),
    Field("objective_power", "float64", "Objective power the metadata gives.", nullable=True),
    Field("size_bytes", "int64", "Length of the file."),
    Field(
        "fingerprint",
        "str",
        "sha256 over the file's length and samples of its bytes.",
        nullable=True,
    ),
)

_SLIDE_STRUCTURE = (
    Field("scene", "str", "The scene that is read; missing in a file of one.", nullable=True),
    Field("other_scenes", "str", "Names of the others, with `; ` between them.", nullable=True),
    Field(
        "level_scales",
        "str",
        "Level-0 pixels per pixel of every level, and what says so: `1 whole, 4 stated`.",
        nullable=True,
    ),
    Field(
        "levels_left_out",
        "str",
        "What looked like a level of the pyramid and is none, with the reason.",
        nullable=True,
    ),
    Field("bounds_x", "int64", "Left edge of the scanned part of level 0, pixels."),
    Field("bounds_y", "int64", "Its top edge."),
    Field("bounds_width", "int64", "Its width; that of level 0 where the file says nothing."),
    Field("bounds_height", "int64", "Its height; that of level 0 where the file says nothing."),
    Field("exclude", "str", "The sheet's `exclude` column.", nullable=True),
)
_REMARK = Field("remark", "str", "What to look at, though the slide is `ok`.", nullable=True)

_MANIFEST_COLUMNS = (
    SLIDE_ID,
    *_STATUS,
    Field("path", "str", "The slide's file, relative to the stage's folder.", nullable=True),
    Field("sha256", "str", "sha256 of that file.", nullable=True),
    Field("count", "int64", "Rows of the result (tiles, or pieces of tissue).", nullable=True),
    Field("reused", "bool", "Whether the result was there already."),
)
_MANIFEST_DOC = (
    "What a stage did with each slide. One of a bucket of slides under `buckets/`, and one of "
    "the whole cohort, `manifest.parquet`."
)
register(
    ArtifactSpec(
        "manifest",
        1,
        "parquet",
        _MANIFEST_DOC + " Without speeds. No longer written.",
        _MANIFEST_COLUMNS,
    )
)
_PACE = (
    Field(
        "tiles_per_s",
        "float64",
        "Tiles encoded a second of the slide's wall time; of the features stage.",
        nullable=True,
    ),
    Field(
        "waited",
        "float64",
        "Share of that time in which the encoder had no tile to work on, 0 to 1.",
        nullable=True,
    ),
)
register(
    ArtifactSpec(
        "manifest",
        2,
        "parquet",
        _MANIFEST_DOC + " Without remarks. No longer written.",
        (*_MANIFEST_COLUMNS, *_PACE),
    )
)
MANIFEST = register(
    ArtifactSpec("manifest", 3, "parquet", _MANIFEST_DOC, (*_MANIFEST_COLUMNS, *_PACE, _REMARK))
)
_SLIDES_DOC = "What the slide files of a bucket are, as found when they were opened."
register(
    ArtifactSpec(
        "slides",
        1,
        "parquet",
        _SLIDES_DOC + " Without scenes, scales and bounds. No longer written.",
        (SLIDE_ID, *_SLIDE_FACTS, *_STATUS),
    )
)
SLIDES = register(
    ArtifactSpec(
        "slides",
        2,
        "parquet",
        _SLIDES_DOC,
        (SLIDE_ID, *_SLIDE_FACTS, *_SLIDE_STRUCTURE, *_STATUS, _REMARK),
    )
)
_COHORT_DOC = (
    "The cohort, one row a slide: the sheet joined with what the slide files are. Columns that "
    "follow the ones named here are the sheet's labels, as text."
)
_COHORT_SHEET = (
    SLIDE_ID,
    Field("patient_id", "str", "The patient; folds never part a patient's slides."),
    Field("split", "str", "The sheet's `split` column.", nullable=True),
)
register(
    ArtifactSpec(
        "cohort",
        1,
        "parquet",
        _COHORT_DOC + " Without scenes, scales and bounds. No longer written.",
        (*_COHORT_SHEET, *_SLIDE_FACTS, *_STATUS),
        open_columns=True,
    )
)
COHORT = register(
    ArtifactSpec(
        "cohort",
        2,
        "parquet",
        _COHORT_DOC,
        (
            *_COHORT_SHEET,
            *_SLIDE_FACTS,
            *_SLIDE_STRUCTURE,
            *_STATUS,
            _REMARK,
        ),
        open_columns=True,
    )
)
_MASK = Field(
    "mask",
    "uint8",
    "1 where there is tissue. Pixel (column, row) covers level-0 x from column times "
    "downsample_x, y from row times downsample_y.",
    "(H, W)",
    chunks=(256, 256),
    compressed=True,
)
_MASK_ATTRIBUTES = (
    ("mpp", "um per mask pixel"),
    ("downsample_x", "level-0 pixels per mask pixel in x, a float"),
    ("downsample_y", "level-0 pixels per mask pixel in y, a float"),
    ("threshold", "what parted tissue from glass, in the method's own unit; NaN where none did"),
    ("tissue_mm2", "area of the tissue, square mm"),
    ("pieces", "number of connected pieces"),
)
register(
    ArtifactSpec(
        "tissue-mask",
        1,
        "hdf5",
        "Tissue of a slide at low resolution, without classes. No longer written.",
        (_MASK,),
        attributes=_MASK_ATTRIBUTES,
    )
)
_CLASSES = Field(
    "classes",
    "uint8",
    "What each pixel is: 0 glass, 1 tissue, 2 pen, 3 black, 4 other (coverslip edge, bubble), "
    "5 unreadable.",
    "(H, W)",
    chunks=(256, 256),
    compressed=True,
)
_TISSUE_DOC = (
    "Tissue of a slide at low resolution. Beside it lie the same tissue as GeoJSON polygons in "
    "level-0 pixels and a JPEG overlay to look at."
)
register(
    ArtifactSpec(
        "tissue-mask",
        2,
        "hdf5",
        _TISSUE_DOC + " Without remarks. No longer written.",
        (_MASK, _CLASSES),
        attributes=_MASK_ATTRIBUTES,
    )
)
TISSUE = register(
    ArtifactSpec(
        "tissue-mask",
        3,
        "hdf5",
        _TISSUE_DOC,
        (_MASK, _CLASSES),
        attributes=(*_MASK_ATTRIBUTES, ("remark", "what to look at, in words; empty for nothing")),
    )
)
_TILE_CORNER = (
    Field("x", "int64", "Left edge, level-0 pixels."),
    Field("y", "int64", "Top edge, level-0 pixels."),
)
_TILE_TISSUE = (
    Field("tissue_fraction", "float32", "Share of the tile's area that is tissue, 0 to 1."),
    Field("padded_fraction", "float32", "Share of the tile's area outside the slide, 0 to 1."),
)
_TILE_QC = (
    Field("pen_fraction", "float32", "Share of the tile's area that is pen, 0 to 1."),
    Field("white_fraction", "float32", "Share of the tile's area that is white, 0 to 1."),
    Field("black_fraction", "float32", "Share of the tile's area that is black, 0 to 1."),
    Field(
        "focus",
        "float32",
        "Variance of the Laplacian of the tile's grey values; missing where no pixel was read.",
        nullable=True,
    ),
    Field("read_error", "bool", "Whether a part of the tile does not decode."),
)
_KEEP = Field("keep", "bool", "Whether the tile goes on to the features stage.")
CANDIDATES = register(
    ArtifactSpec(
        "candidates",
        1,
        "parquet",
        "Every tile of the grid that touches tissue or does not decode, row-major (imported tiles "
        "in their source's order), with all that is measured of it. "
        "The tiles stage filters it by `tiles.min_tissue` and the other limits, so that a change "
        "of them reads no pixel. The footer's `geometry` gives the tile's size.",
        (*_TILE_CORNER, *_TILE_TISSUE, *_TILE_QC),
    )
)
COORDINATES = register(
    ArtifactSpec(
        "coordinates",
        1,
        "parquet",
        "Tiles of another tool, made by `slidemill import` and used by `tiles.grid: import`. The "
        "footer's `geometry` gives the tile's size.",
        _TILE_CORNER,
    )
)
register(
    ArtifactSpec(
        "tiles",
        1,
        "parquet",
        "Candidate tiles of a slide, before there were columns of quality. No longer written.",
        (*_TILE_CORNER, *_TILE_TISSUE, _KEEP),
    )
)
TILES = register(
    ArtifactSpec(
        "tiles",
        2,
        "parquet",
        "Candidate tiles of a slide, in the order of the candidates, with all that is measured "
        "and whether each is kept. The footer's `geometry` gives the tile's size.",
        (*_TILE_CORNER, *_TILE_TISSUE, *_TILE_QC, _KEEP),
    )
)
_FEATURE_ATTRIBUTES = (
    ("encoder", "name of the tile encoder"),
    ("weights_sha256", "sha256 of its weights; empty where it needs none"),
    ("mpp", "um per tile pixel"),
    ("tile_px", "edge of a tile in pixels at that resolution"),
    ("mpp_x", "um per level-0 pixel in x"),
    ("mpp_y", "um per level-0 pixel in y"),
    ("step_x", "distance of neighbouring tiles in x, level-0 pixels, a float"),
    ("step_y", "distance of neighbouring tiles in y, level-0 pixels, a float"),
    ("tiles_left_out", "number of kept tiles that did not decode and are not here"),
)
_FEATURES_DOC = (
    "Features of the kept tiles of a slide, in the order of the tiles. The attributes of "
    "`coords` are those that TRIDENT writes, so that its readers and Patho-Bench's take the "
    "file as it is."
)
register(
    ArtifactSpec(
        "features",
        1,
        "hdf5",
        _FEATURES_DOC + " No longer written.",
        (Field("features", "float32", "One row a tile.", "(N, D)", chunks=(256, 0)), COORDS),
        attributes=_FEATURE_ATTRIBUTES,
    )
)
FEATURES = register(
    ArtifactSpec(
        "features",
        2,
        "hdf5",
        _FEATURES_DOC,
        (
            Field(
                "features",
                "float32",
                "One row a tile.",
                "(N, D)",
                chunks=(256, 0),
                also=("float16",),
            ),
            COORDS,
            Field(
                "tokens",
                "float32",
                "Patch tokens of each tile in their grid (`features.tokens`).",
                "(N, R, C, W)",
                chunks=(1, 0, 0, 0),
                also=("float16",),
                optional=True,
            ),
        ),
        attributes=(
            *_FEATURE_ATTRIBUTES,
            ("output", "what of the network's output the feature is: cls, mean, cls+mean, pooled"),
            ("precision", "arithmetic of the network: fp32, fp16, bf16"),
        ),
    )
)
