"""A real training that is killed at random moments, again and again."""

import random
import signal
import time

import pandas as pd
import pytest
import torch

from pretrain.project import make_project
from slidemill.artifacts.parquet import read_parquet

KILLS = 4


@pytest.mark.slow
def test_a_training_that_is_killed_again_and_again_ends_with_the_same_bytes(tmp_path):
    settings = {
        "epochs": 150, "targets": "centring", "ibot": {"separate_head": True}, "accumulate": 2,
        "regulariser": "kde",
    }  # fmt: skip
    whole = make_project(tmp_path / "whole", settings)
    torch.set_num_threads(1)
    whole.run()
    killed = make_project(tmp_path / "killed", settings, save_minutes=1e-4)
    state, checkpoint = (killed.output / f"{n}.safetensors" for n in ("state", "checkpoint"))
    draw = random.Random(0)
    for _ in range(KILLS):
        before = state.stat().st_mtime_ns if state.exists() else 0
        with killed.started() as process:
            while not state.exists() or state.stat().st_mtime_ns == before:
                assert process.poll() is None, process.communicate()
                time.sleep(0.01)
            time.sleep(draw.uniform(0.0, 0.5))
            process.send_signal(signal.SIGKILL)
        assert not checkpoint.exists(), "it was too quick to be killed"
    with killed.started() as process:
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert "going on from step" in output
    assert checkpoint.read_bytes() == (whole.output / "checkpoint.safetensors").read_bytes()
    tables = [
        read_parquet(project.output / "metrics.parquet", "pretrain-metrics")
        for project in (whole, killed)
    ]
    times = ["seconds", "tokens_per_s"]
    pd.testing.assert_frame_equal(*(t.drop(columns=times) for t in tables), check_exact=True)
    assert tables[1]["seconds"].is_monotonic_increasing
    assert not state.exists()
    for path in (whole.output / "slides").glob("*.h5"):
        assert path.read_bytes() == (killed.output / "slides" / path.name).read_bytes()
