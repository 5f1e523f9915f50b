import os
import threading

import pytest

from slidemill.cohort import ages
from slidemill.cohort.ages import ages_or_last_seen, file_ages, remember


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


def test_a_file_that_is_gone_has_the_age_that_it_was_last_seen_with(tmp_path):
    stays, goes, never = (str(tmp_path / name) for name in ("stays", "goes", "never"))
    memory = tmp_path / "ages.json"
    for path in (stays, goes):
        (tmp_path / path).write_text("x")
    seen = ages_or_last_seen([stays, goes, never], memory)
    assert seen[never] is None
    remember(seen, memory)
    (tmp_path / "goes").unlink()
    (tmp_path / "stays").write_text("another")
    now = ages_or_last_seen([stays, goes, never], memory)
    assert now[goes] == seen[goes]
    assert now[stays] != seen[stays]
    assert now[never] is None
    # What is not asked for stays known, and nothing is written where nothing is new.
    remember({stays: now[stays]}, memory)
    before = memory.stat().st_mtime_ns
    remember(now, memory)
    assert memory.stat().st_mtime_ns == before
    assert ages_or_last_seen([goes], memory) == {goes: seen[goes]}
