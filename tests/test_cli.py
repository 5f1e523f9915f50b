import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def python(code, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False
    )


def slidemill(*arguments, cwd=ROOT):
    code = "import sys; from slidemill.cli import main; sys.argv[1:] = {!r}; main()"
    return python(code.format(list(arguments)), cwd)


def test_a_fault_of_the_users_is_said_without_a_traceback(tmp_path):
    (tmp_path / "config.yaml").write_text("tiles: {mmp: 1}\n")
    done = slidemill("tissue", cwd=tmp_path)
    assert done.returncode == 2
    assert "tiles.mmp: unknown key. Did you mean mpp." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bug_keeps_its_traceback(tmp_path):
    (tmp_path / "config.yaml").mkdir()
    done = slidemill("tissue", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_run_or_bucket_that_is_not_there_is_named(tmp_path):
    (tmp_path / "s.tsv").write_text("slide_id\tpath\tpatient_id\na\tx\tp\n")
    (tmp_path / "config.yaml").write_text("cohort: {sheet: s.tsv}\n")
    assert "There are: " in slidemill("tissue", "--bucket", "9-of-4", cwd=tmp_path).stderr
    assert "hed-texture-" in slidemill("features", "--run", "x", cwd=tmp_path).stderr


def test_encoders_are_listed():
    done = slidemill("encoders")
    assert done.returncode == 0
    assert "hed-texture" in done.stdout
    assert "rgb-mean" in done.stdout
    assert "needs no weights" in slidemill("encoders", "download", "rgb-mean").stdout


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A sheet of one slide whose file is not there, after the cohort stage."""
    folder = tmp_path_factory.mktemp("asked")
    (folder / "s.tsv").write_text("slide_id\tpath\tpatient_id\na\tx.svs\tp\n")
    (folder / "config.yaml").write_text("cohort: {sheet: s.tsv, max_failed: 1.0}\n")
    assert slidemill("cohort", cwd=folder).returncode == 0
    return folder


def test_status_and_failed_exit_with_3_where_slides_failed(asked):
    for command in ("status", "failed"):
        done = slidemill(command, cwd=asked)
        assert done.returncode == 3, done.stderr
        assert "failed: a (cohort, file-missing: " in done.stdout
        done = slidemill(command, "--json", cwd=asked)
        assert done.returncode == 3
        (found,) = json.loads(done.stdout)["failed"]
        assert (found["slide_id"], found["error_code"]) == ("a", "file-missing")


def test_status_exits_with_0_where_nothing_failed(tmp_path):
    (tmp_path / "s.tsv").write_text("slide_id\tpath\tpatient_id\na\tx\tp\n")
    (tmp_path / "config.yaml").write_text("cohort: {sheet: s.tsv}\n")
    assert slidemill("status", cwd=tmp_path).returncode == 0
    done = slidemill("failed", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")


def test_failed_slides_are_asked_for_again(asked):
    done = slidemill("failed", "--retry", "a", cwd=asked)
    assert done.returncode == 0
    assert "flagged: cohort s-" in done.stdout
    assert len(list(asked.glob("results/recompute/failed/cohort/*/?-of-4"))) == 1
    done = slidemill("failed", "--retry", "b", "--stage", "cohrt", cwd=asked)
    assert done.returncode == 2
    assert "b: no such slide has failed" in done.stderr
    assert "no stage 'cohrt'. There are: cohort, tissue" in done.stderr


def test_verify_exits_with_1_where_something_is_not_whole(asked):
    done = slidemill("verify", cwd=asked)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    done = slidemill("verify", "--json", cwd=asked)
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert not found["ok"]
    assert set(found["problems"][0]) == {"path", "what", "todo"}


def test_hdf5_takes_no_locks_which_shared_file_systems_refuse(tmp_path):
    code = (
        "import os, sys; sys.argv[1:] = ['encoders']\n"
        "from slidemill import cli\n"
        "assert 'h5py' not in sys.modules\n"
        "cli.app = lambda: print(os.environ['HDF5_USE_FILE_LOCKING'], 'h5py' in sys.modules)\n"
        "cli.main()"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HDF5")}
    for given, expected in ((None, "FALSE"), ("BEST_EFFORT", "BEST_EFFORT")):
        environment = clean | ({"HDF5_USE_FILE_LOCKING": given} if given else {})
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == [expected, "False"]
