"""Two gloo processes for a test: a script is run twice, and what each writes is read."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from slidemill.pretrain.distributed import Ranks


def run_two(script: Path, folder: Path) -> list[Any]:
    """Run a script that calls `as_rank`; what its two processes gave, in the order of ranks."""
    commands = [[sys.executable, str(script), str(folder), str(rank)] for rank in (0, 1)]
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    processes = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for command in commands
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def as_rank(work: Callable[[Ranks], object]) -> None:
    """Join the other process, work, and write what it gives; the script's whole `__main__`."""
    torch.set_num_threads(1)
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    meeting = (folder / "meeting").as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    torch.save(work(Ranks(rank, 2)), folder / f"{rank}.pt")
    dist.destroy_process_group()
