"""Several faults in one run; the others of this folder make each by itself (`make faults`)."""

import os
import signal
import time

import pytest

from cluster.scenario import until
from faults.jobs import commands, running

pytestmark = pytest.mark.slow


def test_a_bad_day_on_the_cluster_loses_nothing(slurm, project, undisturbed):
    first = project.start()
    job = running(slurm, "cohort_bucket")
    for process in until(lambda: commands(job), "slidemill in the job"):
        os.kill(process, signal.SIGKILL)
    slurm.command("scancel", running(slurm, "tissue_bucket"))
    # A step that is just being started would wait for two minutes.
    job = running(slurm, "tiles_bucket")
    until(lambda: commands(job), "slidemill in the job")
    slurm.stop_controller()
    time.sleep(5)
    slurm.start_controller()
    refused = project.run(ok=False)
    assert "another run (on " in refused
    assert "Traceback" not in refused
    running(slurm, "handcrafted_bucket")
    first.kill()
    assert first.printed.count("Trying to restart job") >= 2
    project.keep()
    project.run()
    project.assert_whole(undisturbed)
