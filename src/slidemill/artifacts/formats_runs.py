"""Formats of the tables about runs and results: the catalogue, and what a run came to.

Part of `slidemill.artifacts.formats`, from where everything is imported.
"""

from slidemill.artifacts.fields import SLIDE_ID
from slidemill.artifacts.spec import ArtifactSpec, Field, register

_STAGE = Field("stage", "str", "Name of the stage.")
_RUN = Field("run", "str", "Name of the stage's folder, `<label>-<digest>`.")

RUN_RESULTS = register(
    ArtifactSpec(
        "run-results",
        1,
        "parquet",
        "What every slide came to in every stage when a run ended, `runs/<time>.parquet`: "
        "manifests are written anew by later runs, this is not. A slide that a stage had not "
        "reached has no row. Digests are shortened to 16 hexadecimal digits.",
        (
            _STAGE,
            _RUN,
            SLIDE_ID,
            Field("status", "str", "`ok` or `failed`."),
            Field("failed_stage", "str", "The stage in which the slide failed.", nullable=True),
            Field("error_code", "str", "Why it failed.", nullable=True),
            Field("item_digest", "str", "Digest of what the result was made from.", nullable=True),
            Field("sha256", "str", "sha256 of the slide's file.", nullable=True),
            Field("count", "int64", "Rows of the result.", nullable=True),
        ),
    )
)
CATALOG = register(
    ArtifactSpec(
        "catalog",
        1,
        "parquet",
        "Every dataset of a results folder, one row a stage's folder, `catalog.parquet`. What "
        "cannot be known of a folder is missing, and `problem` says why.",
        (
            _STAGE,
            _RUN,
            Field("label", "str", "What people call it.", nullable=True),
            Field("digest", "str", "Its digest.", nullable=True),
            Field("artifact_type", "str", "Format of its main artifact.", nullable=True),
            Field("artifact_version", "int64", "Version of that format.", nullable=True),
            Field("algorithm_version", "int64", "Version of the stage's code.", nullable=True),
            Field("parameters", "str", "What changes its values (JSON).", nullable=True),
            Field("upstream", "str", "Folders that it reads (JSON list).", nullable=True),
            Field("producer", "str", "Who began it.", nullable=True),
            Field("slides_ok", "int64", "Slides with a result.", nullable=True),
            Field("slides_failed", "int64", "Slides that failed here or before.", nullable=True),
            Field(
                "rows",
                "int64",
                "Rows of the slides' results together, or of the main table.",
                nullable=True,
            ),
            Field("files", "int64", "Files of the folder."),
            Field("size_bytes", "int64", "Their length together."),
            Field("created", "str", "When it was begun (ISO 8601, UTC).", nullable=True),
            Field("updated", "str", "When a file of it was last written.", nullable=True),
            Field(
                "configs",
                "str",
                "Configurations (`configs/<name>.json`) whose last run refers to it (JSON list).",
            ),
            Field("problem", "str", "What is wrong with the folder.", nullable=True),
            Field(
                "state",
                "str",
                "Digest of names, lengths and times of what lies in the folder itself; while it "
                "is the same, the row is kept.",
            ),
        ),
    )
)
