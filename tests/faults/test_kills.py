"""A few kills at random moments; `kills.py` makes as many as one likes."""

import pytest

from faults.kills import kill_stages

pytestmark = pytest.mark.faults


def test_killed_stages_lose_nothing(slurm, tmp_path, slides, undisturbed):
    tally = kill_stages(tmp_path, slides, undisturbed, kills=3)
    assert tally.kills.total() == 3
