"""Provenance: what is written into every file, and what is written once a run.

The stamp in a file has no time, host or path in it: the same inputs give the same bytes. Volatile
facts belong to the manifests and to `runs/<time>.json`.
"""

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from slidemill import __version__
from slidemill.artifacts.atomic import write_text

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


def run_record(command: list[str], config: dict[str, Any]) -> dict[str, Any]:
    """Facts about a run: command, commit, configuration, versions, hardware."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "commit": git_commit(Path(__file__).parent),
        "config": config,
        "versions": {"python": platform.python_version()} | package_versions(),
        "hardware": {
            "host": platform.node(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "gpus": _gpu_names(),
        },
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
    }


def write_run_record(results: Path, record: dict[str, Any]) -> Path:
    """Write `runs/<time>.json`; returns its path."""
    stamp = record["started"].replace(":", "").replace("-", "").replace("+0000", "Z")
    path = results / "runs" / f"{stamp}-{os.getpid()}.json"
    write_text(path, json.dumps(record, indent=2, sort_keys=True) + "\n")
    return path


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that results depend on."""
    found = {}
    for name in _RECORDED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_commit(folder: Path) -> str | None:
    """Commit of the checkout that the code runs from, `-dirty` added where it was changed."""
    described = _output(
        ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    )
    return described or None


def _gpu_names() -> list[str]:
    listed = _output(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"])
    return listed.splitlines()


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def command_line() -> list[str]:
    """The command line of this process, its program by name."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]
