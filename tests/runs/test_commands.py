import fcntl
import json
import subprocess
import sys

import pytest
import yaml

from runs.written import CONFIG, SLIDES, make, write
from slidemill.cli import main
from slidemill.runs import record
from slidemill.workflow import finish, resolved_path, start

OTHER = {"tiles": {"mpp": 1.0}}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A configuration in use, and results of it and of another, both run."""
    monkeypatch.chdir(tmp_path)
    for name, sections in (("config", {}), ("other", OTHER)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(CONFIG | sections))
        plan = make(tmp_path, **sections)
        write(plan)
        configuration = tmp_path / resolved_path(plan.config)
        configuration.parent.mkdir(exist_ok=True)
        configuration.write_text("{}")
        path = record.begin(plan, configuration.stem)
        record.end(plan, path.rename(path.with_name(f"{path.stem}-{name}.json")), "success")
    return tmp_path


@pytest.fixture
def slidemill(capsys, monkeypatch):
    """The command line in this process: what it prints, its exit code and words of an error."""

    def run(*arguments, code=0, error=""):
        monkeypatch.setattr(sys, "argv", ["slidemill", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert (ended.value.code or 0) == code, printed
        assert error in printed.err
        return printed.out

    return run


def delete(*arguments):
    """`slidemill gc --delete` in a process of its own, with whose end the lock goes."""
    run = "import sys; from slidemill.cli import main; sys.argv[1:] = {!r}; main()"
    command = [sys.executable, "-c", run.format(["gc", "--delete", *arguments])]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_catalogue_is_printed_and_renewed(project, slidemill):
    printed = slidemill("catalog")
    assert "rgb-mean-" in printed
    assert all(len(line) <= 100 for line in printed.splitlines())
    rows = json.loads(slidemill("catalog", "--json"))
    assert (project / "results/catalog.parquet").is_file()
    tiles = [row for row in rows if row["stage"] == "tiles"]
    assert len(tiles) == 2
    assert all(len(row["configs"]) == 1 and row["upstream"] for row in tiles)


def test_gc_lists_and_deletes_what_was_asked_for(project, slidemill):
    before = set((project / "results").rglob("*"))
    printed = slidemill("gc")
    assert "1 other configuration has been run on these results" in printed
    assert "folders of earlier configurations stay" in printed
    assert "run of 20" in printed
    assert set((project / "results").rglob("*")) == before
    both = json.loads(slidemill("gc", "-c", "config.yaml", "-c", "other.yaml", "--json"))
    assert both["folders"] == []
    deleted = json.loads(delete("--also-earlier", "--json"))
    assert deleted["freed_bytes"] > 0
    rows = json.loads(slidemill("catalog", "--json"))
    assert len([row for row in rows if row["stage"] == "tiles"]) == 1


def test_gc_takes_slides_that_left_the_sheet_on_request(project, slidemill):
    make(project, SLIDES[:3])
    assert "1 slide no longer in the sheet" in slidemill("gc", "--also-earlier")
    slides = project / "results/tissue"
    assert list(slides.glob("*/slides/s3.h5"))
    assert "freed" in delete("--also-earlier", "--slides")
    assert not list(slides.glob("*/slides/s3.h5"))
    assert list(slides.glob("*/slides/s2.h5"))


def test_gc_deletes_nothing_under_a_running_workflow(project, slidemill):
    with (project / "results/.lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        slidemill("gc")
        slidemill("gc", "--delete", code=2, error="another run")


def test_gc_refuses_a_configuration_that_cannot_be_planned(project, slidemill):
    (project / "s.tsv").unlink()
    slidemill("gc", "--delete", code=2, error="config.yaml cannot be planned, so nobody knows")


def test_diff_says_by_its_exit_code_whether_runs_differ(project, slidemill):
    assert "tiles.mpp" in slidemill("diff", "last", "last~1", code=1)
    assert "no difference" in slidemill("diff", "last", "last")
    facts = json.loads(slidemill("diff", "last~1", "last", "--json", code=1))
    assert facts["config"] == [{"key": "tiles.mpp", "old": None, "new": 1.0}]
    slidemill("diff", "last~2", "last", code=2, error="has 2 runs")


def test_diff_of_records_by_path_needs_no_configuration(project, slidemill):
    (project / "config.yaml").unlink()
    paths = [str(path) for path in sorted((project / "results/runs").glob("*.json"))]
    slidemill("diff", *paths, code=1)
    slidemill("diff", "none.json", paths[0], code=2, error="no such run")


def test_a_run_leaves_its_record_its_results_and_the_catalogue(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make(tmp_path)
    write(plan)
    path = start(plan)
    finish(plan, path, "success")
    found = record.read_record(path)
    assert found.status == "success"
    assert (tmp_path / "results/configs" / f"{found.configuration}.json").is_file()
    assert record.results_path(path).is_file()
    assert (tmp_path / "results/catalog.parquet").is_file()


def test_an_end_that_cannot_be_written_is_said_and_is_no_error(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    plan = make(tmp_path)
    path = start(plan)
    path.unlink()
    finish(plan, path, "error")
    assert "the end of this run could not be noted" in caplog.text
