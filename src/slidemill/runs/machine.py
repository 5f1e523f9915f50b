"""On what a run is made: the commit of the code, and the machine of the driver."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any


def git_commit(folder: Path) -> str | None:
    """Commit of the checkout that the code runs from, `-dirty` added where it was changed."""
    described = _output(
        ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    )
    return described or None


def hardware() -> dict[str, Any]:
    """Host, platform, CPUs and GPUs of this machine."""
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": _gpu_names(),
    }


def _gpu_names() -> list[str]:
    listed = _output(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"])
    return listed.splitlines()


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
