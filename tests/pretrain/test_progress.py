"""What people see of a training: lines, a bar, and TensorBoard's events."""

import logging
import math
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from slidemill.errors import ConfigError
from slidemill.pretrain import progress as module
from slidemill.pretrain.progress import TrainingProgress


def row(loss, **more):
    return {"loss": loss, "tokens_per_s": 12345.6, "ibot_loss": math.nan} | more


def events_of(folder):
    found = EventAccumulator(str(folder))
    found.Reload()
    return {name: found.Scalars(name) for name in found.Tags()["scalars"]}


def test_lines_are_written_now_and_then_and_at_the_end(caplog, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO), TrainingProgress("tiny", None, shown=True) as progress:
        for step, now[0] in enumerate((1.0, 11.0, 12.0, 22.0, 23.0), start=1):
            progress.update(step, 5, row(step))
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        f"pretrain tiny: step {step}/5, loss {step}.0000, 12,346 tokens/s" for step in (2, 4, 5)
    ]


def test_other_processes_say_nothing(caplog):
    with caplog.at_level(logging.INFO), TrainingProgress("tiny", None, shown=False) as progress:
        progress.update(5, 5, row(1))
    assert caplog.records == []


def test_a_terminal_has_a_bar_and_no_lines(caplog, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with caplog.at_level(logging.INFO), TrainingProgress("tiny", None, shown=True) as progress:
        progress.update(5, 5, row(1.5))
    assert caplog.records == []
    shown = capsys.readouterr().err
    assert "tiny" in shown
    assert "5/5" in shown
    assert "loss 1.5000" in shown


def test_events_hold_every_number_of_every_step_that_there_is(tmp_path):
    with TrainingProgress("tiny", tmp_path, shown=True) as progress:
        for step in (1, 2, 3):
            progress.update(step, 3, row(10.0 * step, rankme=2.5))
    found = events_of(tmp_path)
    assert found.keys() == {"loss", "tokens_per_s", "rankme"}
    assert [(event.step, event.value) for event in found["loss"]] == [(1, 10), (2, 20), (3, 30)]


def test_events_of_a_run_that_was_killed_are_void_from_where_it_goes_on(tmp_path):
    """Or from the start, where it begins anew: no step is shown twice."""
    for done, value in ((0, 1.0), (2, 5.0)):
        with TrainingProgress("tiny", tmp_path, shown=True, done=done) as progress:
            for step in range(done + 1, 5):
                progress.update(step, 4, row(value))
    loss = [(event.step, event.value) for event in events_of(tmp_path)["loss"]]
    assert loss == [(1, 1), (2, 1), (3, 5), (4, 5)]
    with TrainingProgress("tiny", tmp_path, shown=True) as progress:
        progress.update(1, 4, row(9.0))
    assert [(e.step, e.value) for e in events_of(tmp_path)["loss"]] == [(1, 9)]


def test_tensorboard_that_is_missing_is_said_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    TrainingProgress("tiny", None, shown=True)
    with pytest.raises(ConfigError, match=r"pretrain.tensorboard: .*slidemill\[tensorboard\]"):
        TrainingProgress("tiny", tmp_path, shown=True)


def test_the_bar_and_the_events_end_with_an_error(tmp_path):
    with (
        pytest.raises(ValueError, match="stop"),
        TrainingProgress("tiny", tmp_path, shown=True) as progress,
    ):
        progress.update(1, 4, row(9.0))
        raise ValueError("stop")
    assert len(events_of(tmp_path)["loss"]) == 1
    assert module.LINE_SECONDS > 1
