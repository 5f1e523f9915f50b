"""A small cohort, what an undisturbed run makes of it, and a project on the cluster."""

from pathlib import Path

import pytest

from cluster.scenario import Scenario
from slidemill.demo import write_demo


@pytest.fixture(scope="session")
def slides(tmp_path_factory) -> Path:
    """Six patients: eight good slides, one of glass and one torn."""
    folder = tmp_path_factory.mktemp("slides")
    write_demo(folder, patients=6, size_px=(1536, 1152), jobs=1)
    return folder


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, slides) -> dict[str, str]:
    """What a run leaves that nothing happens to, on this machine and without Slurm."""
    scenario = Scenario(tmp_path_factory.mktemp("undisturbed"))
    scenario.configure(slides)
    scenario.run(slurm=False)
    content = scenario.content()
    assert len(content) > 40
    return content


@pytest.fixture
def project(tmp_path, slides, slurm) -> Scenario:
    """A project on the cluster that has not been run."""
    scenario = Scenario(tmp_path / "project")
    scenario.configure(slides)
    yield scenario
    scenario.end()
