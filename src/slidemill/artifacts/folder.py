"""A stage's folder: `results/<stage>/<label>-<digest>/`, its `dataset.json`, its guard.

`StageId` is what a stage is: its digest covers the parameters that change values and, through the
upstream stages, everything the result was made from. A stage refuses a folder of another digest.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from slidemill import __version__
from slidemill.artifacts.atomic import write_text
from slidemill.artifacts.digest import SHORT, digest_of
from slidemill.artifacts.provenance import Stamp
from slidemill.artifacts.spec import ArtifactSpec
from slidemill.errors import ArtifactError


@dataclass(frozen=True)
class StageId:
    """Identity of one run of a stage.

    Attributes:
        stage: Name of the stage.
        label: What people call this run of it; not in the digest.
        spec: Format of the stage's main artifact.
        algorithm_version: Raised whenever the stage's code changes its results.
        parameters: Everything else that changes values, as plain JSON values.
        upstream: What the stage reads.
    """

    stage: str
    label: str
    spec: ArtifactSpec
    algorithm_version: int
    parameters: Mapping[str, Any]
    upstream: tuple["StageId", ...] = field(default=())

    @cached_property
    def digest(self) -> str:
        """Hexadecimal sha256 over all that changes values."""
        return digest_of(
            {
                "stage": self.stage,
                "artifact": [self.spec.type, self.spec.version],
                "algorithm_version": self.algorithm_version,
                "parameters": dict(self.parameters),
                "upstream": [stage.digest for stage in self.upstream],
            }
        )

    @property
    def name(self) -> str:
        """Name of the folder: label first, for people; digest second, for tools."""
        return f"{self.label}-{self.digest[:SHORT]}"

    def folder(self, results: Path) -> Path:
        """The folder of this run of the stage."""
        return results / self.stage / self.name

    def item_digest(self, inputs: object) -> str:
        """Digest of one item of this stage that was made from `inputs`."""
        return digest_of({"stage": self.digest, "inputs": inputs})

    def stamp(self, slide_id: str, inputs: Mapping[str, str]) -> Stamp:
        """The provenance of one item of this stage.

        Args:
            slide_id: The slide, or empty for a file of the whole cohort.
            inputs: Item digests of what it is made from, by stage.
        """
        return Stamp(
            digest=self.digest,
            item_digest=self.item_digest(dict(inputs)),
            slide_id=slide_id,
            upstream=dict(inputs),
            parameters=dict(self.parameters),
        )


def open_folder(stage: StageId, results: Path) -> Path:
    """Make a stage's folder, or check that the one that is there is this stage's.

    Raises:
        ArtifactError: If the folder belongs to another digest.
    """
    folder = stage.folder(results)
    path = folder / "dataset.json"
    if path.exists():
        found = read_dataset(folder)
        if found.get("Digest") != stage.digest:
            raise ArtifactError(
                f"{folder}: it holds results of digest {str(found.get('Digest'))[:SHORT]}, not of "
                f"{stage.digest[:SHORT]}. Move it away, or set another `results` folder."
            )
        return folder
    write_text(path, json.dumps(_description(stage), indent=2, sort_keys=True) + "\n")
    return folder


def read_dataset(folder: Path) -> dict[str, Any]:
    """The `dataset.json` of a stage's folder.

    Raises:
        ArtifactError: If it is missing or damaged.
    """
    path = folder / "dataset.json"
    try:
        description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(
            f"{path}: there is no such file. Run the stage that makes it."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path}: not valid JSON ({error}). Delete it and run again."
        ) from error
    return description


def _description(stage: StageId) -> dict[str, Any]:
    return {
        "Name": f"slidemill {stage.stage} {stage.label}",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "slidemill", "Version": __version__}],
        "Stage": stage.stage,
        "Label": stage.label,
        "ArtifactType": stage.spec.type,
        "ArtifactVersion": stage.spec.version,
        "AlgorithmVersion": stage.algorithm_version,
        "Digest": stage.digest,
        "Parameters": dict(stage.parameters),
        "Upstream": [
            {"Stage": above.stage, "Folder": f"{above.stage}/{above.name}", "Digest": above.digest}
            for above in stage.upstream
        ],
    }
