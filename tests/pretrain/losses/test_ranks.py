from pathlib import Path

import pytest
import torch

from pretrain.losses.two_ranks import SLIDES, TILES, step
from pretrain.processes import run_two
from slidemill.pretrain.distributed import Ranks


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What one process computes of all slides, and two gloo processes of theirs."""
    two = run_two(Path(__file__).with_name("two_ranks.py"), tmp_path_factory.mktemp("ranks"))
    with torch.random.fork_rng(devices=[]):
        one = step(Ranks(), slice(0, SLIDES), slice(0, TILES))
    return one, two


@pytest.mark.parametrize("name", ["dino", "ibot", "koleo", "kde"])
def test_shares_of_two_ranks_add_up_to_the_loss_of_one_process(results, name):
    one, two = results
    torch.testing.assert_close(two[0][name] + two[1][name], one[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("name", "axis"), [("sinkhorn", 1), ("student", 1), ("tiles", 0)])
def test_targets_and_gradients_of_ranks_are_those_of_one_process(results, name, axis):
    one, two = results
    joined = torch.cat([rank[name] for rank in two], dim=axis)
    torch.testing.assert_close(joined, one[name], atol=1e-6, rtol=1e-4)


def test_centre_shift_and_summed_gradients_are_the_same_on_all_ranks(results):
    one, two = results
    names = [name for name in one if name in ("centre", "shift") or name.startswith("head.")]
    assert len(names) == 2 + 7
    for name in names:
        assert torch.equal(two[0][name], two[1][name])
        torch.testing.assert_close(two[0][name], one[name], atol=1e-6, rtol=1e-4)
