import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pretrain.processes import run_two
from pretrain.two_distributed import COUNTS, loss_of, rows_of
from slidemill.pretrain.distributed import Ranks, join, leave


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two gloo processes found."""
    script = Path(__file__).with_name("two_distributed.py")
    return run_two(script, tmp_path_factory.mktemp("ranks"))


def test_one_process_is_alone_and_changes_nothing():
    ranks = Ranks()
    assert (ranks.rank, ranks.size, ranks.first) == (0, 1, True)
    rows = torch.ones(3, 2, requires_grad=True)
    total = ranks.sum(rows)
    assert torch.equal(total, rows)
    assert not total.requires_grad
    assert ranks.count(7, torch.device("cpu")) == 7
    everyone, first = ranks.gather(rows)
    assert everyone is rows
    assert first == 0
    linear = torch.nn.Linear(2, 2)
    linear.weight.grad = torch.full((2, 2), 3.0)
    ranks.sum_gradients(linear)
    assert torch.equal(linear.weight.grad, torch.full((2, 2), 3.0))
    assert linear.bias.grad is None
    ranks.barrier()


def test_the_first_rank_writes():
    assert [Ranks(rank, 3).first for rank in range(3)] == [True, False, False]


def test_sums_and_counts_are_those_of_all_and_leave_what_was_given(ranks):
    for rank, found in enumerate(ranks):
        assert torch.equal(found["sum"], torch.full((2, 3), 1.0 + 2.0 + 1.0))
        assert not found["asked"]
        assert torch.equal(found["given"], torch.full((2, 3), 1.0 + rank))
        assert found["count"] == 11


@pytest.mark.parametrize("case", range(len(COUNTS)))
def test_rows_of_all_are_in_the_order_of_ranks_with_gradient(ranks, case):
    """Shares of a loss between rows of both, and their gradients, are those of one process."""
    counts, rows = COUNTS[case], rows_of(COUNTS[case]).requires_grad_()
    loss = loss_of(rows, rows)
    loss.backward()
    found = [one["gathered"][case] for one in ranks]
    for rank, one in enumerate(found):
        assert torch.equal(one["everyone"], rows.detach())
        assert torch.equal(one["detached"], rows.detach())
        assert one["first"] == (0, counts[0])[rank]
        torch.testing.assert_close(one["gradient"], rows.grad.split(counts)[rank])
    torch.testing.assert_close(sum(one["loss"] for one in found), loss.detach())


def test_gradients_are_summed_and_those_that_nobody_has_stay_none(ranks):
    expected = {"both": 1.0 + 2.0, "first": 10.0, "second": 20.0, "low": 4.0 + 8.0}
    for found in ranks:
        assert set(found["summed"]) == {f"{name}.weight" for name in expected}
        for name, value in expected.items():
            gradient = found["summed"][f"{name}.weight"]
            assert gradient.dtype == (torch.float16 if name == "low" else torch.float32)
            assert (gradient == value).all()
        assert found["nothing"]


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join("cpu") == Ranks()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join("cpu") == Ranks()
    leave()  # of nobody


JOINING = """
import sys, torch
from pathlib import Path
from torch import distributed as dist
from slidemill.pretrain.distributed import join, leave
ranks = join("cpu")
assert join("cpu") == ranks  # a second time, too
total = ranks.count(10 ** ranks.rank, torch.device("cpu"))
facts = f"{ranks.rank} {ranks.size} {total} {dist.get_backend()}"
Path(sys.argv[1], f"{ranks.rank}.txt").write_text(facts)
leave()
assert not dist.is_initialized()
"""


def test_what_torchrun_starts_is_joined(tmp_path):
    script = tmp_path / "joining.py"
    script.write_text(JOINING)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ran = subprocess.run(
        [*command, str(script), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    found = [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)]
    assert found == ["0 2 11 gloo", "1 2 11 gloo"]
