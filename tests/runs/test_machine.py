import subprocess

from slidemill.runs.machine import git_commit, hardware


def test_a_changed_checkout_says_so(tmp_path):
    def git(*arguments):
        who = ["-c", "user.name=n", "-c", "user.email=e@x"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "a")
    commit = git_commit(tmp_path)
    assert len(commit) == 40
    (tmp_path / "a").write_text("2")
    assert git_commit(tmp_path) == f"{commit}-dirty"


def test_a_folder_that_is_no_checkout_has_no_commit(tmp_path):
    assert git_commit(tmp_path) is None


def test_the_hardware_is_named():
    found = hardware()
    assert found["cpus"] >= 1
    assert found["host"]
