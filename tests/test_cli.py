import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "timm", "sklearn", "matplotlib", "openslide", "skimage")


def python(code, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False
    )


def slidemill(*arguments, cwd=ROOT):
    code = "import sys; from slidemill.cli import main; sys.argv[1:] = {!r}; main()"
    return python(code.format(list(arguments)), cwd)


STAGES = ["cohort", "tissue", "tiles", "features", "splits", "pretrain", "evaluate", "report"]
COMMANDS = [*STAGES, "demo", "status", "summary", "verify", "export", "import"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    done = slidemill(command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_help_and_planning_import_nothing_heavy(tmp_path):
    (tmp_path / "s.tsv").write_text("slide_id\tpath\tpatient_id\na\tx\tp\n")
    code = (
        "import sys; from slidemill.workflow import plan_workflow\n"
        "from slidemill import cli\n"
        "plan = plan_workflow({'cohort': {'sheet': 's.tsv'}})\n"
        "assert plan.targets('features')\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = python(code, tmp_path)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


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
