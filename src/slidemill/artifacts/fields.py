"""Fields that several formats have."""

from slidemill.artifacts.spec import Field

SLIDE_ID = Field("slide_id", "str", "The slide, as named in the sheet.")
COORDS = Field(
    "coords",
    "int64",
    "Top-left corner (x, y) of each tile in level-0 pixels, in the order of the tiles.",
    "(N, 2)",
    chunks=(4096, 2),
)
