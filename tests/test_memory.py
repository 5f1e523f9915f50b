"""Shortage of memory, as libraries and the kernel say it."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from slidemill.memory import is_shortage, oom_kills


def test_what_is_a_shortage_and_what_is_not():
    assert is_shortage(MemoryError())
    assert is_shortage(OSError(errno.ENOMEM, "Cannot allocate memory"))
    with pytest.raises(MemoryError) as numpys:
        np.empty(2**60, np.uint8)
    assert is_shortage(numpys.value)
    with pytest.raises(cv2.error) as opencvs:
        cv2.resize(np.zeros((4, 4, 3), np.uint8), (2**20, 2**20))
    assert is_shortage(opencvs.value)
    with pytest.raises(cv2.error) as wrong:
        cv2.resize(np.zeros((0, 0, 3), np.uint8), (2, 2))
    assert not is_shortage(wrong.value)
    assert not is_shortage(OSError(errno.ENOSPC, "No space left"))
    assert not is_shortage(ValueError("memory"))


def kernel(folder, cgroup, mounts):
    """What the kernel would say of a process."""
    folder.mkdir()
    (folder / "cgroup").write_text(cgroup)
    (folder / "mountinfo").write_text(mounts)
    return folder


def test_the_kernels_counters_of_both_versions(tmp_path):
    own = tmp_path / "v2" / "job_7"
    own.mkdir(parents=True)
    (own / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\n")
    proc = kernel(
        tmp_path / "two", "0::/job_7\n",
        f"31 22 0:26 / {tmp_path / 'v2'} rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
    )  # fmt: skip
    assert oom_kills(proc) == 2
    own = tmp_path / "v1" / "job_8"
    own.mkdir(parents=True)
    (own / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n")
    proc = kernel(
        tmp_path / "one", "4:memory:/job_8\n1:cpu,cpuacct:/job_8\n",
        f"34 31 0:31 / {tmp_path / 'v1'} rw,relatime - cgroup cgroup rw,memory\n",
    )  # fmt: skip
    assert oom_kills(proc) == 5


def test_in_a_container_the_groups_own_folder_is_what_is_mounted(tmp_path):
    (tmp_path / "memory.events").write_text("oom_kill 1\n")
    line = f"31 22 0:26 /docker/a {tmp_path} ro - cgroup2 cgroup rw\n"
    assert oom_kills(kernel(tmp_path / "proc", "0::/docker/a\n", line)) == 1


def test_where_the_kernel_says_nothing_nobody_was_killed(tmp_path):
    assert oom_kills(tmp_path / "nowhere") == 0
    assert oom_kills() >= 0


def test_a_real_kill_is_counted():
    """A child in a memory control group of 64 MB that takes 200 MB."""
    group = Path("/sys/fs/cgroup/memory") / f"slidemill-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(64 * 2**20))
    except OSError as error:
        pytest.skip(f"needs the right to make a memory control group (version 1): {error}")
    code = (
        "import subprocess, sys\n"
        "from slidemill.memory import oom_kills\n"
        "before = oom_kills()\n"
        "hog = subprocess.run([sys.executable, '-c', 'x = bytearray(200 * 2**20)'])\n"
        "print(hog.returncode, oom_kills() - before)\n"
    )
    move = f"import os, pathlib; pathlib.Path({str(group / 'cgroup.procs')!r}).write_text('0')\n"
    try:
        done = subprocess.run(
            [sys.executable, "-c", move + code], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == ["-9", "1"]
    finally:
        group.rmdir()
