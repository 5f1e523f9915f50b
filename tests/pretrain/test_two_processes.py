"""Several processes train one encoder: the numbers of one process, and faults that end it."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributed.run import get_args_parser

from pretrain.processes import run_two
from pretrain.project import SLIDES, make_project
from pretrain.tiny import make_bags
from pretrain.two_trainings import NUMBERS, RUNS, trainings
from slidemill import cli, jobs
from slidemill.artifacts.parquet import read_parquet
from slidemill.errors import UserError
from slidemill.pretrain.bags import draw_rows
from slidemill.pretrain.checkpoint import load_checkpoint, read_facts
from slidemill.pretrain.distributed import Ranks
from slidemill.pretrain.loader import MOMENTS
from slidemill.pretrain.train import MOMENT_TILES

TIMES = ["seconds", "tokens_per_s"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What one process trains, and what two gloo processes do together."""
    two = run_two(Path(__file__).with_name("two_trainings.py"), tmp_path_factory.mktemp("ranks"))
    return trainings(Ranks()), two


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_have_the_losses_of_one(results, name):
    one, two = results
    table, first, second = (found[name]["table"] for found in (one, *two))
    assert len(table) == 10
    assert set(table[:, NUMBERS.index("slides")].tolist()) in ({3, 4}, {7})
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)
    losses = slice(0, 3)
    torch.testing.assert_close(
        first[:, losses], table[:, losses], rtol=1e-5, atol=0, equal_nan=True
    )
    # Some of these are near 0, where a rounding is more of them.
    torch.testing.assert_close(first, table, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_end_with_the_same_weights_near_those_of_one(results, name):
    one, two = results
    for key, tensor in one[name].items():
        torch.testing.assert_close(two[0][name][key], two[1][name][key], rtol=0, atol=0,
                                   equal_nan=True)  # fmt: skip
        torch.testing.assert_close(two[0][name][key], tensor, rtol=1e-3, atol=1e-4, equal_nan=True)


# --- slidemill pretrain, by torchrun ------------------------------------------------------------


class FakePopen:
    """A torchrun that notes its command and ends with a code."""

    commands: ClassVar[list[list[str]]] = []
    code = 0

    def __init__(self, command):
        self.commands.append(command)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def wait(self):
        return self.code

    def terminate(self):
        return None


def test_torchrun_understands_what_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", FakePopen)
    config = Path("config.yaml")
    before = signal.getsignal(signal.SIGTERM)
    jobs.launch_pretrain(config, "tiny-x", 3, 2)
    (program, *command) = FakePopen.commands[-1]
    assert (program, *command[:2]) == (sys.executable, "-m", "torch.distributed.run")
    options = get_args_parser().parse_args(command[2:])
    assert (options.nproc_per_node, options.standalone, options.module) == ("2", True, True)
    assert options.training_script == "slidemill.cli"
    assert options.training_script_args == [
        "pretrain", "--config", "config.yaml", "--run", "tiny-x", "--threads", "3",
    ]  # fmt: skip
    monkeypatch.setattr(FakePopen, "code", 1)
    with pytest.raises(UserError, match=r"tiny-x: a process of the training ended with 1"):
        jobs.launch_pretrain(config, "tiny-x", 3, 2)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(("processes", "world", "launched"), [(1, 0, 0), (2, 0, 1), (2, 2, 0)])
def test_processes_are_launched_once(tmp_path, monkeypatch, processes, world, launched):
    """Not by the processes that were launched, or where torchrun was called by hand."""
    project = make_project(tmp_path, processes=processes)
    called = []
    monkeypatch.setattr(jobs, "launch_pretrain", lambda *_: called.append("launch"))
    monkeypatch.setattr(jobs, "pretrain", lambda *_: called.append("train"))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if world:
        monkeypatch.setenv("WORLD_SIZE", str(world))
    monkeypatch.chdir(tmp_path)
    cli.pretrain(project.folder / "config.yaml", None, 1)
    assert called == ["launch" if launched else "train"]


def left_over(folder):
    """Processes that have the folder in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if str(folder).encode() in command and int(path.parent.name) != os.getpid():
            found.append(command)
    return found


@pytest.mark.slow
def test_processes_in_the_configuration_train_the_same_encoder(tmp_path):
    whole = make_project(tmp_path / "one", {"epochs": 4})
    whole.run()
    both = make_project(tmp_path / "two", {"epochs": 4}, processes=2)
    with both.started() as process:
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    facts = [read_facts(p.output / "checkpoint.safetensors") for p in (whole, both)]
    assert facts[0] == facts[1]
    tables = [
        read_parquet(p.output / "metrics.parquet", "pretrain-metrics").drop(columns=TIMES)
        for p in (whole, both)
    ]
    pd.testing.assert_frame_equal(*tables, rtol=1e-5, atol=1e-5)
    assert sorted(path.name for path in both.output.iterdir()) == [
        "checkpoint.safetensors", "dataset.json", "manifest.parquet", "metrics.parquet", "slides",
    ]  # fmt: skip
    assert len(list((both.output / "slides").glob("*.h5"))) == len(SLIDES)
    load_checkpoint(both.output / "checkpoint.safetensors")
    # Each line of the log is there once: the second process shows nothing.
    assert output.count("step 8/8") == 1


@pytest.mark.slow
def test_a_fault_of_one_process_ends_all_with_its_message(tmp_path):
    """The other would wait for it forever."""
    project = make_project(tmp_path, {"batch_slides": 8}, processes=2)
    # Not finite where only the process that has the slide reads: past the draw of the moments.
    tiles, slide = 2 * MOMENT_TILES, len(SLIDES) - 1
    rng = np.random.default_rng([0, MOMENTS])
    for one in make_bags(len(SLIDES), dim=3).tile_coords[:slide]:
        draw_rows(len(one), MOMENT_TILES, rng)
    unread = np.setdiff1d(np.arange(tiles), draw_rows(tiles, MOMENT_TILES, rng))
    features = np.ones((tiles, 3), np.float32)
    features[unread] = np.nan
    name = list(SLIDES)[slide]
    coords = np.stack(np.divmod(np.arange(tiles), 16), axis=1) * 256
    project.replace(name, features, coords)
    with project.started() as process:
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 2, output
    assert f"slidemill: slide {name}: features of" in output
    assert "a process of the training ended with" in output.splitlines()[-1]
    assert not (project.output / "checkpoint.safetensors").exists()
    assert left_over(tmp_path) == []


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path):
    project = make_project(tmp_path, {"epochs": 5000}, processes=2, save_minutes=1e-4)
    state = project.output / "state.safetensors"
    until = time.monotonic() + 600
    with project.started() as process:
        while not state.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.2)
        # The command, torchrun and two of its own.
        assert len(left_over(tmp_path)) == 4
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=100)
        assert left_over(tmp_path) == []
    assert process.returncode == 2, output
