"""The file of a training's state: round trip, and files that are refused."""

import json
import logging
import os
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pretrain.tiny import make_bags, make_tiny
from slidemill.artifacts.provenance import Stamp
from slidemill.pretrain.snapshot import TrainingState
from slidemill.pretrain.state import KEY, StateFile
from slidemill.pretrain.train import train

STAMP, OTHER = Stamp("d", "this"), Stamp("d", "another")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def state():
    """The state of a real training."""
    states = []
    run = make_tiny(method="dino", targets="centring", frozen_head=0.5)
    train(make_bags(), run, seed=0, keep=lambda _, state: states.append(state()))
    states[1].watch = {"same": 1}
    return states[1]


@pytest.fixture
def file(tmp_path, state):
    found = StateFile(tmp_path / "deep" / "state.safetensors", STAMP, 1.0)
    found.write(state)
    return found


def path_of(tmp_path):
    return tmp_path / "deep" / "state.safetensors"


def test_a_state_goes_round_through_its_file_to_the_bit(file, state):
    found = file.load(0.0)
    assert (found.step, found.seconds, found.watch) == (2, state.seconds, {"same": 1})
    assert found.tensors.keys() == state.tensors.keys()
    for name, tensor in state.tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)
    # As text, since missing numbers are not equal to themselves.
    assert [*map(str, found.metrics)] == [*map(str, state.metrics)]
    assert any(number != number for row in found.metrics for number in row)


def test_the_file_is_safetensors_and_nothing_is_unpickled(file, tmp_path, monkeypatch):
    with safe_open(path_of(tmp_path), framework="pt") as found:
        assert json.loads(found.metadata()[KEY])["step"] == 2
    monkeypatch.setattr(pickle, "load", lambda *_: pytest.fail("unpickled"))
    monkeypatch.setattr(pickle, "loads", lambda *_: pytest.fail("unpickled"))
    monkeypatch.setattr(torch, "load", lambda *_: pytest.fail("unpickled"))
    assert file.load(0.0) is not None
    path_of(tmp_path).write_bytes(pickle.dumps({"step": 2}))
    assert file.load(0.0) is None


def test_there_is_no_state_at_first_and_none_after_the_end(tmp_path, file):
    assert StateFile(tmp_path / "none.safetensors", STAMP, 1.0).load(0.0) is None
    file.remove()
    assert file.load(0.0) is None
    file.remove()
    assert list(path_of(tmp_path).parent.iterdir()) == []


def test_a_state_of_another_training_is_refused_with_a_warning(file, tmp_path, caplog):
    whole = path_of(tmp_path).read_bytes()
    with caplog.at_level(logging.WARNING):
        assert StateFile(path_of(tmp_path), OTHER, 1.0).load(0.0) is None
    assert "of another training; starting from step 0" in caplog.text
    assert path_of(tmp_path).read_bytes() == whole


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:5],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data[:8] + b"}" + data[9:],
        lambda data: data.replace(b'"metrics"', b'"metrixs"'),
        lambda data: data.replace(b'\\"seconds\\"', b'\\"sekonds\\"'),
    ],
)
def test_a_damaged_state_is_refused_with_a_warning(file, tmp_path, caplog, damage):
    path = path_of(tmp_path)
    damaged = damage(path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        assert file.load(0.0) is None
    assert "not readable" in caplog.text
    assert "starting from step 0" in caplog.text


def test_other_files_and_versions_are_refused(file, tmp_path, caplog):
    tensors = load_file(path_of(tmp_path))
    meta = {"version": 0, "item_digest": "this", "step": 2, "seconds": 1.0, "watch": {}}
    for metadata in (None, {"format": "pt"}, {KEY: json.dumps(meta)}):
        save_file(tensors, path_of(tmp_path), metadata)
        assert file.load(0.0) is None
    assert caplog.text.count("of another training") == 3


def test_a_state_of_before_a_recompute_does_not_count(file, tmp_path):
    path = path_of(tmp_path)
    os.utime(path, (1000, 1000))
    assert file.load(1001.0) is None
    assert file.load(999.0) is not None


def test_states_are_written_no_more_often_than_asked(tmp_path, state, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    file = StateFile(tmp_path / "s.safetensors", STAMP, 10.0)
    taken = []

    def take():
        taken.append(now[0])
        return state

    for now[0] in (100.0, 699.9, 700.0, 701.0, 1299.0, 1300.0):
        file.keep(1, take)
    assert taken == [700.0, 1300.0]


def test_a_write_that_fails_leaves_the_last_state(file, tmp_path, monkeypatch):
    def fail(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("slidemill.pretrain.state.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        file.write(TrainingState(3, 0.0, {}, [[0.0]], {}))
    assert file.load(0.0).step == 2
    assert len(list(path_of(tmp_path).parent.iterdir())) == 1
