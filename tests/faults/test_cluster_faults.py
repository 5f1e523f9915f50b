"""What a cluster does to jobs: cancelled, killed, out of memory or time, nodes and Slurm gone."""

import os
import signal
import time

import pytest

from cluster.scenario import until
from faults.jobs import commands, running

pytestmark = pytest.mark.faults


def test_a_killed_stage_is_tried_again(slurm, project, undisturbed):
    driver = project.start()
    job = running(slurm, "tiles_bucket")
    for process in until(lambda: commands(job), "slidemill in the job"):
        os.kill(process, signal.SIGKILL)
    printed = driver.wait()
    assert driver.process.returncode == 0, printed
    assert "Trying to restart job" in printed
    project.assert_whole(undisturbed)


def test_a_cancelled_job_is_tried_again(slurm, project, undisturbed):
    driver = project.start()
    job = running(slurm, "tissue_bucket")
    slurm.command("scancel", job)
    printed = driver.wait()
    assert driver.process.returncode == 0, printed
    assert "CANCELLED" in printed
    project.assert_whole(undisturbed)


def test_a_node_that_goes_down_gives_its_jobs_back(slurm, project, undisturbed):
    driver = project.start()
    job = running(slurm, "tissue_bucket")
    slurm.set_node("cpu1", "down")
    until(lambda: job not in {one["id"] for one in slurm.jobs("RUNNING")}, "the job's end")
    slurm.set_node("cpu1", "resume")
    printed = driver.wait()
    assert driver.process.returncode == 0, printed
    project.assert_whole(undisturbed)


def test_a_controller_that_starts_again_loses_nothing(slurm, project, undisturbed):
    driver = project.start()
    job = running(slurm, "tissue_bucket")
    until(lambda: commands(job), "slidemill in the job")
    slurm.stop_controller()
    # Longer than the driver waits between two looks.
    time.sleep(5)
    slurm.start_controller()
    printed = driver.wait()
    assert driver.process.returncode == 0, printed
    project.assert_whole(undisturbed)


def test_too_little_memory_is_doubled(slurm, project, undisturbed):
    # The first attempt has less than Python needs to start.
    printed = project.run("--set-resources", "tissue_bucket:mem_mb=60*attempt**3")
    assert "OUT_OF_MEMORY" in printed or "FAILED" in printed
    assert "Trying to restart job" in printed
    project.assert_whole(undisturbed)


def test_too_little_time_is_tried_again(slurm, project, undisturbed):
    driver = project.start()
    job = running(slurm, "handcrafted_bucket")
    # Slurm looks at limits twice a minute, which is longer than this job takes.
    for process in until(lambda: commands(job), "slidemill in the job"):
        os.kill(process, signal.SIGSTOP)
    slurm.command("scontrol", "update", f"jobid={job}", "timelimit=0:01")
    printed = driver.wait()
    assert driver.process.returncode == 0, printed
    assert "TIMEOUT" in printed
    project.assert_whole(undisturbed)
