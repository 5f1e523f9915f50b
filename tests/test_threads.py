"""A job of one CPU on a node of several: every stage's command, as Slurm runs it."""

import json
import os
import subprocess
import sys

import pytest

from slidemill.artifacts.workers import THREAD_VARIABLES

STAGES = ("cohort", "tissue", "tiles", "features", "pretrain", "evaluate")
COUNT = """
import json, sys
from types import SimpleNamespace
from slidemill import cli

stage, command = sys.argv[1], cli.app
plan = SimpleNamespace(
    buckets=["0-of-1"], tiles={"t": None}, encoders=[None], cells=[], evaluate={},
    config=SimpleNamespace(pretrain=SimpleNamespace(processes=1)),
)

def count(*args):
    import torch
    from threadpoolctl import threadpool_info
    libraries = {info["filepath"]: info["num_threads"] for info in threadpool_info()}
    print(json.dumps([args[-1], torch.get_num_threads(), libraries]))
    raise SystemExit

def app():
    # The job's module, and numpy with it, is imported when the command is chosen.
    assert "numpy" not in sys.modules
    from slidemill import jobs
    setattr(jobs, stage, count)
    command()

cli.app, cli._plan = app, lambda config: plan
sys.argv = ["slidemill", stage] + ["--run=r"] * (stage in ("pretrain", "evaluate"))
cli.main()
"""


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_takes_the_cpus_of_its_job_and_so_do_its_libraries(stage):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs a machine of several CPUs")
    environment = {k: v for k, v in os.environ.items() if k not in THREAD_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", COUNT, stage],
        capture_output=True, text=True, env=environment | {"SLURM_CPUS_PER_TASK": "1"}, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    given, torchs, libraries = json.loads(done.stdout)
    assert (given, torchs) == (1, 1)
    assert libraries
    assert set(libraries.values()) == {1}
