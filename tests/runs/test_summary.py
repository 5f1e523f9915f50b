import shutil
import subprocess
import sys

from slidemill.runs.summary import print_summary


def test_the_last_line_of_a_run_counts_failures_by_stage_and_code(whole, capsys):
    print_summary(whole.plan, table=False)
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("2 of 7 slides failed (cohort: 1 truncated, tissue: 1 no-tissue); ")
    assert "`slidemill failed`" in first
    assert "`slidemill failed --retry`" in first
    assert "`slidemill status`" in first
    assert last == f"report: {whole.plan.report_path()}"


def test_it_comes_from_buckets_where_a_run_ended_before_they_were_joined(run, capsys):
    plan = run.plan
    for stage in (plan.cohort, plan.tissue):
        plan.manifest_path(stage).unlink()
    shutil.rmtree(plan.results / "report")
    print_summary(plan, table=False)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("2 of 7 slides failed (cohort: 1 truncated, tissue: 1 no-tissue); ")


def test_nothing_is_said_where_nothing_failed(run, capsys):
    run.configure(results="others")
    print_summary(run.plan, table=False)
    assert capsys.readouterr().out == ""


def test_the_last_line_needs_nothing_heavy(whole):
    code = (
        "import sys; sys.argv[1:] = ['summary', '--brief']\n"
        "from slidemill.cli import main; main()\n"
    )
    check = "import atexit; atexit.register(lambda: print([name for name in "
    check += "('torch', 'pandas', 'sklearn', 'matplotlib') if name in sys.modules]))\n"
    done = subprocess.run(
        [sys.executable, "-c", "import sys\n" + check + code],
        cwd=whole.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
