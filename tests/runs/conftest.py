"""One finished small run, and copies of it that a test may damage."""

from pathlib import Path

import pytest

from runs.small_run import SmallRun, copy_of, make_small_run


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> SmallRun:
    """A finished run, which no test changes."""
    return make_small_run(tmp_path_factory.mktemp("small"))


@pytest.fixture
def run(whole: SmallRun, tmp_path: Path) -> SmallRun:
    """A copy of it."""
    return copy_of(whole, tmp_path / "run")
