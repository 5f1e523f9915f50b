"""Every artifact format of slidemill, declared.

Importing this module fills the registry of `slidemill.artifacts.spec`.
"""

from slidemill.artifacts.spec import ArtifactSpec, Field, register

_SLIDE_ID = Field("slide_id", "str", "The slide, as named in the sheet.")
_COORDS = Field(
    "coords",
    "int64",
    "Top-left corner (x, y) of each tile in level-0 pixels, in the order of the tiles.",
    "(N, 2)",
    chunks=(4096, 2),
)
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

_MANIFEST_COLUMNS = (
    _SLIDE_ID,
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
MANIFEST = register(
    ArtifactSpec(
        "manifest",
        2,
        "parquet",
        _MANIFEST_DOC,
        (
            *_MANIFEST_COLUMNS,
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
        ),
    )
)
SLIDES = register(
    ArtifactSpec(
        "slides",
        1,
        "parquet",
        "What the slide files of a bucket are, as found when they were opened.",
        (_SLIDE_ID, *_SLIDE_FACTS, *_STATUS),
    )
)
COHORT = register(
    ArtifactSpec(
        "cohort",
        1,
        "parquet",
        "The cohort, one row a slide: the sheet joined with what the slide files are. Columns that "
        "follow the ones named here are the sheet's labels, as text.",
        (
            _SLIDE_ID,
            Field("patient_id", "str", "The patient; folds never part a patient's slides."),
            Field("split", "str", "The sheet's `split` column.", nullable=True),
            *_SLIDE_FACTS,
            *_STATUS,
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
TISSUE = register(
    ArtifactSpec(
        "tissue-mask",
        2,
        "hdf5",
        "Tissue of a slide at low resolution. Beside it lie the same tissue as GeoJSON polygons in "
        "level-0 pixels and a JPEG overlay to look at.",
        (
            _MASK,
            Field(
                "classes",
                "uint8",
                "What each pixel is: 0 glass, 1 tissue, 2 pen, 3 black, 4 other (coverslip edge, "
                "bubble), 5 unreadable.",
                "(H, W)",
                chunks=(256, 256),
                compressed=True,
            ),
        ),
        attributes=_MASK_ATTRIBUTES,
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
        (Field("features", "float32", "One row a tile.", "(N, D)", chunks=(256, 0)), _COORDS),
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
            _COORDS,
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
SPLITS = register(
    ArtifactSpec(
        "splits",
        1,
        "parquet",
        "Folds of a task: which patients are tested in which fold. Patients of the other folds "
        "train. Labels are those the task sees (permuted if it shuffles them).",
        (
            Field("task", "str", "Name of the task."),
            Field("repeat", "int64", "Repetition of the k-fold, from 0."),
            Field("fold", "int64", "Fold in which the patient is tested, from 0."),
            Field("patient_id", "str", "The patient."),
            Field("label", "str", "The patient's label."),
        ),
    )
)
PRETRAIN_METRICS = register(
    ArtifactSpec(
        "pretrain-metrics",
        1,
        "parquet",
        "The course of a pretraining run, one row a step.",
        (
            Field("step", "int64", "Step, from 0."),
            Field("epoch", "int64", "Epoch, from 0."),
            Field("loss", "float64", "DINO loss, nats."),
            Field("learning_rate", "float64", "Learning rate of the step."),
            Field("teacher_momentum", "float64", "Momentum of the teacher's average."),
            Field("teacher_entropy", "float64", "Mean entropy of the teacher's outputs, nats."),
            Field("kl_to_uniform", "float64", "KL of the teacher's mean output to uniform, nats."),
            Field("gradient_norm", "float64", "Norm of the gradient before clipping."),
            Field("seconds", "float64", "Wall time since the start, seconds."),
        ),
    )
)
EMBEDDING = register(
    ArtifactSpec(
        "slide-embedding",
        1,
        "hdf5",
        "Embedding of a slide by a slide encoder.",
        (Field("features", "float32", "The embedding.", "(D,)"),),
        attributes=(
            ("slide_encoder", "label of the pretraining run"),
            ("encoder", "name of the tile encoder"),
            ("checkpoint_sha256", "sha256 of the slide encoder's checkpoint"),
        ),
    )
)
PREDICTIONS = register(
    ArtifactSpec(
        "predictions",
        1,
        "parquet",
        "Out-of-fold predictions, one row a slide, repeat and model: each is by a model that never "
        "saw the patient.",
        (
            Field("task", "str", "Name of the task."),
            Field("model", "str", "The model: abmil, linear-probe."),
            Field(
                "input",
                "str",
                "What the model was given, such as `hed-texture` or `hed-texture/dino`.",
            ),
            Field("repeat", "int64", "Repetition of the k-fold."),
            Field("fold", "int64", "Fold in which the slide is tested."),
            _SLIDE_ID,
            Field("patient_id", "str", "The patient."),
            Field("label", "int64", "1 for the positive class, 0 for the other."),
            Field("probability", "float64", "Predicted probability of the positive class."),
        ),
    )
)
METRICS = register(
    ArtifactSpec(
        "metrics",
        1,
        "parquet",
        "Metrics of every model and input. Rows with fold -1 are over all folds, with an interval "
        "from resampled patients; the others are of one fold, without.",
        (
            Field("task", "str", "Name of the task."),
            Field("model", "str", "The model."),
            Field("input", "str", "What the model was given."),
            Field("metric", "str", "auroc, auprc or balanced_accuracy."),
            Field("repeat", "int64", "Repetition of the k-fold; -1 over all."),
            Field("fold", "int64", "Fold; -1 over all."),
            Field("estimate", "float64", "Value of the metric.", nullable=True),
            Field("low", "float64", "Lower end of the 95 % interval.", nullable=True),
            Field("high", "float64", "Upper end of the 95 % interval.", nullable=True),
            Field("n_patients", "int64", "Patients it is over."),
            Field("n_positive", "int64", "Positive patients among them."),
        ),
    )
)
ATTENTION = register(
    ArtifactSpec(
        "attention",
        1,
        "hdf5",
        "Attention of an ABMIL over a slide's tiles, by the model that did not see the patient.",
        (
            Field(
                "attention", "float32", "Weight of each tile; sums to 1.", "(N,)", chunks=(4096,)
            ),
            _COORDS,
        ),
        attributes=(
            ("repeat", "repetition of the k-fold"),
            ("fold", "fold in which the slide is tested"),
            ("probability", "predicted probability of the positive class"),
        ),
    )
)
