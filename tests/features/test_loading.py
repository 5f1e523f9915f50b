"""State dicts are read safely and loaded strictly."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from slidemill.errors import WeightsError
from slidemill.features.loading import is_whole, load_strictly, read_state


def small():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.fixture
def state():
    return {key: value.clone() for key, value in small().state_dict().items()}


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "teacher"])
def test_state_dicts_are_unwrapped(tmp_path, state, wrapper):
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "weights.pt")
    found = read_state(tmp_path / "weights.pt")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_safetensors_and_pickles_of_tensors_are_the_same(tmp_path, state):
    save_file(state, tmp_path / "weights.safetensors")
    torch.save(state, tmp_path / "weights.bin")
    one, other = (read_state(tmp_path / f"weights.{kind}") for kind in ("safetensors", "bin"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_code_in_a_file_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").write_text, ("x",))

    torch.save({"state_dict": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match=r"evil\.pt: not readable as safe weights"):
        read_state(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_whole_networks_and_rubbish_are_refused(tmp_path):
    torch.save(small(), tmp_path / "network.pt")
    (tmp_path / "rubbish.safetensors").write_bytes(b"x" * 100)
    for name in ("network.pt", "rubbish.safetensors", "absent.pt"):
        with pytest.raises(WeightsError, match="safe weights"):
            read_state(tmp_path / name)
    torch.save({"a": 3}, tmp_path / "numbers.pt")
    torch.save({}, tmp_path / "empty.pt")
    for name in ("numbers.pt", "empty.pt"):
        with pytest.raises(WeightsError, match="no state dict"):
            read_state(tmp_path / name)


def test_weights_replace_all_of_a_network_on_meta(tmp_path, state):
    with torch.device("meta"):
        network = small()
    assert not is_whole(network)
    load_strictly(network, state, tmp_path / "x")
    assert is_whole(network)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_half_precision_weights_become_float32(tmp_path, state):
    half = {key: v.half() if v.is_floating_point() else v for key, v in state.items()}
    network = small()
    load_strictly(network, half, tmp_path / "x")
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert network[1].num_batches_tracked.dtype == torch.int64


def test_names_too_few_and_too_many_are_counted_and_named(tmp_path, state):
    kept = dict(state)
    for key in ("0.weight", "2.bias"):
        del kept[key]
    with pytest.raises(WeightsError, match=r"x\.pt: .*2 keys are missing \(0\.weight, 2\.bias\)"):
        load_strictly(small(), kept, tmp_path / "x.pt")
    more = state | {f"head.{i}": torch.zeros(1) for i in range(5)}
    with pytest.raises(WeightsError, match=r"5 keys are unexpected \(head\.0, head\.1, head\.2, "):
        load_strictly(small(), more, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="1 key is missing"):
        load_strictly(small(), {k: v for k, v in state.items() if k != "0.bias"}, tmp_path / "x")


def test_other_shapes_are_named(tmp_path, state):
    state["0.weight"] = torch.zeros(5, 3)
    with pytest.raises(WeightsError, match=r"0\.weight is \(5, 3\) instead of \(4, 3\)"):
        load_strictly(small(), state, tmp_path / "x.pt")


def test_only_counters_of_batches_may_be_missing(tmp_path, state):
    del state["1.num_batches_tracked"]
    with torch.device("meta"):
        network = small()
    load_strictly(network, state, tmp_path / "x.pt")
    assert network[1].num_batches_tracked == 0
    del state["1.running_mean"]
    with pytest.raises(WeightsError, match=r"1\.running_mean"):
        load_strictly(small(), state, tmp_path / "x.pt")


def test_tensors_that_are_no_buffers_count_as_well():
    network = small()
    network.table = torch.zeros(1, device="meta")
    assert not is_whole(network)
