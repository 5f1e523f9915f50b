import os
import threading

import pytest

from slidemill.cohort import ages
from slidemill.cohort.ages import file_ages


@pytest.mark.parametrize("count", [0, 1, ages.CHUNK, 3 * ages.CHUNK + 5])
def test_every_file_in_the_order_asked_for(tmp_path, count):
    paths = [tmp_path / f"{number}.svs" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(b"x" * number)
        os.utime(path, ns=(0, 1_000_000_007 * number))
    expected = [(number, 1_000_000_007 * number) for number in range(count)]
    assert file_ages([str(path) for path in paths]) == expected


def test_what_is_not_there_has_no_age_and_a_folder_has_one(tmp_path):
    (tmp_path / "file").touch()
    missing, below, folder = file_ages(
        [str(tmp_path / "none"), str(tmp_path / "file" / "x"), str(tmp_path)]
    )
    assert (missing, below) == (None, None)
    assert folder is not None
    assert folder[1] == tmp_path.stat().st_mtime_ns


def test_a_slow_file_system_is_asked_many_things_at_once(monkeypatch):
    together = 8
    meet = threading.Barrier(together, timeout=10)

    def slow_stat(path):
        meet.wait()
        raise FileNotFoundError

    monkeypatch.setattr(os, "stat", slow_stat)
    monkeypatch.setattr(ages, "CHUNK", 1)
    assert file_ages(["x"] * together) == [None] * together
