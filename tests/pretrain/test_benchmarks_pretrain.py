"""The pretraining benchmarks run, and print what they promise."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def printed(name, *arguments):
    """The line of JSON that a benchmark ends with."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments, "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def speed():
    return runpy.run_path(str(BENCHMARKS / "pretrain_speed.py"))


def test_floating_point_operations_are_those_of_the_formula(speed):
    """TFLOP, forward and backward, of 12 x 768 at the lengths that the issue's bound is from."""
    forward = speed["forward_flops"]
    wanted = {(2048, "exact"): 1.51, (8192, "exact"): 11.6, (16384, "exact"): 38.0}
    wanted |= {(2048, "longnet"): 1.43, (8192, "longnet"): 5.9, (16384, "longnet"): 11.9}
    for (tokens, attention), tflop in wanted.items():
        assert 3e-12 * forward(tokens, 12, 768, attention) == pytest.approx(tflop, rel=0.01)


def test_arms_do_equal_work_and_all_numbers_are_there():
    """One slide at a time gives the packed loss, of as many tokens."""
    found = printed("pretrain_speed", "--quick", "--attention", "exact", "--device", "cpu")
    arms = found["arms"]
    assert set(arms) == {"exact packed", "exact equal", "exact one"}
    # Two crops of 36 tiles and two of 9 for each of 4 slides.
    assert all(arm["tokens"] == 4 * (2 * 36 + 2 * 9) for arm in arms.values())
    for arm in arms.values():
        assert min(arm["step_s"], arm["slides_per_s"], arm["tflops"], arm["share_of_peak"]) > 0
        assert 0 <= arm["waited_s"] <= arm["step_s"]
    ratio = found["ratios"]["exact one/equal"]
    assert ratio["loss_difference"] < 1e-5
    assert arms["exact packed"]["first_loss"] != arms["exact equal"]["first_loss"]


@pytest.mark.slow
def test_memory_is_measured_in_processes_of_their_own():
    """Crops have no more tiles than a crop may have, whatever the slide."""
    arguments = ("--quick", "--memory", "200", "--max-tiles", "100", "--device", "cpu")
    works = ("--attention", "longnet", "--works", "embedding", "step, checkpointing")
    found = printed("pretrain_speed", *arguments, *works)["memory"]
    assert found["longnet embedding"]["longest"] == 200
    assert found["longnet step, checkpointing"]["longest"] == 100
    assert all(one["peak_mb"] >= one["before_mb"] > 0 for one in found.values())


@pytest.mark.slow
def test_arrangement_prints_every_readout_and_control():
    """A few slides and one epoch say nothing of encoders, and all of the table."""
    arguments = ("--slides", "12", "--epochs", "1", "--threads", "1", "--methods", "dino")
    found = printed("pretrain_arrangement", *arguments)
    assert set(found["tiles"]) == {"mean", "max", "abmil"}
    rows = [
        f"{prefix}{readout}"
        for prefix in ("", "random_init_", "shuffled_")
        for readout in ("cls", "mean_tokens", "layers")
    ]
    for value in [*found["tiles"].values(), *(found["dino"][row] for row in rows)]:
        estimate, low, high = value
        assert 0 <= low <= estimate <= high <= 1
