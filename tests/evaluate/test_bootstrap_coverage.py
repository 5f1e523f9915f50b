import runpy
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "bootstrap_coverage.py"


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_say_and_slides_do_not() -> None:
    simulation = runpy.run_path(str(BENCHMARK))
    _, held = simulation["coverage"](simulation["binary_cohort"], 120, 0.8, cohorts=500, draws=1000)
    assert 0.93 <= held["ours"] <= 0.97
    assert held["slides"] < 0.85
