"""Provenance: what is written into every file.

The stamp in a file has no time, host or path in it: the same inputs give the same bytes. Volatile
facts belong to the manifests and to the record of a run (`slidemill.runs.record`).
"""

import json
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from slidemill import __version__

PRODUCER = f"slidemill {__version__}"
"""What every file says of its writer."""

_RECORDED_PACKAGES = (
    "slidemill", "snakemake", "snakemake-executor-plugin-slurm", "torch", "timm", "numpy", "scipy",
    "scikit-image", "scikit-learn", "h5py", "pandas", "pyarrow", "openslide-python",
    "openslide-bin", "pillow",
)  # fmt: skip


@dataclass(frozen=True)
class Stamp:
    """Provenance inside a file, enough to know what it is without its folder.

    Attributes:
        digest: Digest of the stage that wrote it.
        item_digest: Digest of this file: the stage's with that of what it was made from.
        slide_id: The slide it belongs to; empty for files of the whole cohort.
        upstream: Digests of what it was made from, by stage.
        parameters: Parameters of the stage that change values.
    """

    digest: str
    item_digest: str
    slide_id: str = ""
    upstream: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)

    def as_attributes(self, artifact_type: str, artifact_version: int) -> dict[str, str | int]:
        """The stamp as flat attributes; mappings are JSON text."""
        return {
            "artifact_type": artifact_type,
            "artifact_version": artifact_version,
            "digest": self.digest,
            "item_digest": self.item_digest,
            "slide_id": self.slide_id,
            "upstream": json.dumps(self.upstream, sort_keys=True),
            "producer": PRODUCER,
            "parameters": json.dumps(self.parameters, sort_keys=True),
        }


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that results depend on."""
    found = {}
    for name in _RECORDED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
