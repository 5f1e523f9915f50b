"""Jobs of the cluster and their processes, to do something to."""

from contextlib import suppress
from pathlib import Path

from cluster.scenario import until
from cluster.slurm import Cluster


def running(slurm: Cluster, rule: str) -> str:
    """Wait until a job of a rule runs; its id."""

    def found() -> str | None:
        jobs = [job for job in slurm.jobs("RUNNING") if job["comment"].startswith(f"rule_{rule}")]
        return jobs[0]["id"] if jobs else None

    return until(found, f"a running job of {rule}")


def commands(job: str) -> list[int]:
    """Processes of a Slurm job that run `slidemill`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            variables = (folder / "environ").read_bytes().split(b"\0")
            ours = any(word.endswith(b"/slidemill") for word in words[:2])
            if ours and f"SLURM_JOB_ID={job}".encode() in variables:
                found.append(int(folder.name))
    return found
