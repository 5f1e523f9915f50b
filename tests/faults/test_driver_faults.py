"""What happens to the driver and to the disk under it."""

import json

import pytest

from cluster.scenario import copy_cohort, remount, small_disk, until
from faults.jobs import running

pytestmark = pytest.mark.faults


def test_a_killed_driver_starts_again_and_ends_its_orphans(slurm, project, undisturbed):
    first = project.start()
    running(slurm, "tissue_bucket")
    # Running jobs go on, and what comes next waits: orphans that cannot end by themselves.
    slurm.set_node("cpu1", "drain")
    orphans = until(lambda: slurm.jobs("PENDING"), "jobs that wait")
    first.kill()
    project.keep()
    second = project.start()
    until(lambda: "was killed and left" in second.printed, "what is said of orphans")
    until(lambda: not {job["id"] for job in orphans} & _ids(slurm.jobs()), "the orphans' end")
    slurm.set_node("cpu1", "resume")
    printed = second.wait()
    assert second.process.returncode == 0, printed
    project.assert_whole(undisturbed)


def _ids(jobs) -> set[str]:
    return {job["id"] for job in jobs}


def test_a_second_driver_is_refused(slurm, project, undisturbed):
    first = project.start()
    until(lambda: slurm.jobs(), "a job")
    printed = project.run(ok=False)
    assert "another run (on " in printed
    assert "Traceback" not in printed
    assert first.wait()
    assert first.process.returncode == 0, first.printed
    project.assert_whole(undisturbed)


def test_a_full_disk_fails_the_run_and_space_mends_it(slurm, project, undisturbed):
    with small_disk(project.results, 0.5):
        printed = project.run("--retries", "0", ok=False)
        assert "No space left on device" in printed
        project.keep()
        remount(project.results, "size=64m")
        project.run()
        project.assert_whole(undisturbed)


def test_a_read_only_folder_is_said_before_any_job(slurm, project, undisturbed):
    with small_disk(project.results, 64):
        remount(project.results, "ro")
        printed = project.run(ok=False)
        assert "nothing can be written there" in printed
        assert "Traceback" not in printed
        assert "submitted with SLURM" not in printed
        remount(project.results, "rw")
        project.run()
        project.assert_whole(undisturbed)


def test_a_slide_that_is_replaced_while_it_runs(slurm, project, slides, tmp_path):
    cohort = copy_cohort(slides, tmp_path / "cohort")
    project.configure(cohort)
    rows = (cohort / "slides.tsv").read_text().splitlines()[1:]
    names = [row.split("\t")[0] for row in rows]
    old, new = (cohort / "slides" / f"{name}.tif" for name in names[:2])
    driver = project.start()
    until(lambda: list(project.results.glob("tissue/*/buckets/*.parquet")), "a bucket of tissue")
    old.write_bytes(new.read_bytes())
    driver.wait()
    failed = json.loads(project.slidemill("failed", "--json").stdout)["failed"]
    assert {row["slide_id"]: row["error_code"] for row in failed}[old.stem] == "changed"
    project.run()
    fresh = type(project)(tmp_path / "fresh")
    fresh.configure(cohort)
    fresh.run(slurm=False)
    project.assert_whole(fresh.content())


def test_a_slide_that_is_deleted_while_it_runs(slurm, project, slides, tmp_path, undisturbed):
    cohort = copy_cohort(slides, tmp_path / "cohort")
    project.configure(cohort)
    victim = next((cohort / "slides").glob("*.tif"))
    content = victim.read_bytes()
    driver = project.start()
    until(lambda: list(project.results.glob("tissue/*/buckets/*.parquet")), "a bucket of tissue")
    victim.unlink()
    driver.wait()
    failed = json.loads(project.slidemill("failed", "--json").stdout)["failed"]
    assert {row["slide_id"]: row["error_code"] for row in failed}[victim.stem] == "file-missing"
    victim.write_bytes(content)
    project.run()
    fresh = type(project)(tmp_path / "fresh")
    fresh.configure(cohort)
    fresh.run(slurm=False)
    project.assert_whole(fresh.content())
