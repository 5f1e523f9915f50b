"""Readers that die, hang, or have a bug: real signals in real processes."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.conftest import COORDS, GEOMETRY, Kept, engine_of, run_engine
from slidemill.artifacts.workers import Lost
from slidemill.features import pool
from slidemill.features.chunks import Source
from slidemill.features.engine import Work
from slidemill.features.pool import Crew


@pytest.fixture
def mixed(works):
    """A sound slide, one that has a fault that a test gives it, and another sound one."""
    evil = Work(7, Source(Path("evil.tif"), "auto", GEOMETRY), COORDS)
    return [works[0], evil, works[1]]


@pytest.fixture
def on_evil(monkeypatch):
    """Have readers do something when they get the evil slide."""
    real = pool.answer

    def give(action):
        def answer(chunk, slides, out):
            if chunk.source.path.name == "evil.tif":
                action()
            return real(chunk, slides, out)

        monkeypatch.setattr(pool, "answer", answer)

    return give


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("sent", [signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_costs_its_slide_alone(mixed, on_evil, threads, processes, sent):
    def die():
        os.kill(os.getpid(), sent)
        time.sleep(30)

    on_evil(die)
    sink = run_engine(mixed, crew=Crew(processes, threads, seconds=60), tiles=9, slots=8)
    assert isinstance(sink.outcomes[7].error, Lost)
    assert sent.name in sink.outcomes[7].error.reason
    assert not sink.outcomes[7].error.timed_out
    assert np.isfinite(sink.of(0)).all()
    assert np.isfinite(sink.of(1)).all()
    assert len(sink.of(0)) == len(sink.of(1)) == len(COORDS)


def is_alive(process):
    """Whether a process lives: one that was killed is listed until its parent has looked at it."""
    return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_slide_whose_reader_was_killed_once_is_encoded_alone_and_last(
    mixed, on_evil, disc_slide, tmp_path, processes
):
    evil = tmp_path / "evil.tif"
    evil.symlink_to(disc_slide)
    mixed[1] = replace(mixed[1], source=Source(evil, "auto", GEOMETRY))

    def die():
        # Memory is short while others are read, and while there are other readers.
        children = Path(f"/proc/{os.getppid()}/task/{os.getppid()}/children").read_text().split()
        readers = [child for child in children if is_alive(child)]
        if len(readers) > 1 or len(list(tmp_path.glob("ended-*"))) < 2:
            os.kill(os.getpid(), signal.SIGKILL)

    on_evil(die)

    def end(outcome):
        (tmp_path / f"ended-{outcome.slide}").touch()
        Kept.end(sink, outcome)

    with engine_of(crew=Crew(processes, 2, seconds=60), tiles=9, slots=8) as (engine, sink):
        sink.end = end
        engine.run(mixed)
        engine.run([replace(mixed[0], slide=9)])
    assert (sink.of(7) == sink.of(0)).all()
    assert (sink.of(9) == sink.of(0)).all()
    assert len(sink.of(1)) == len(COORDS)


@pytest.mark.parametrize("turns", [1, 2])
def test_a_reader_without_memory_has_a_second_chance_too(
    mixed, on_evil, disc_slide, tmp_path, turns
):
    evil = tmp_path / "evil.tif"
    evil.symlink_to(disc_slide)
    mixed[1] = replace(mixed[1], source=Source(evil, "auto", GEOMETRY))
    parent = os.getpid()

    def starve():
        count = len(list(tmp_path.glob("try-*")))
        if count < turns:
            (tmp_path / f"try-{count}").touch()
            assert os.getpid() != parent
            np.empty(2**60, np.uint8)

    on_evil(starve)
    sink = run_engine(mixed, crew=Crew(1, 1, seconds=60), tiles=200)
    if turns == 1:
        assert (sink.of(7) == sink.of(0)).all()
    else:
        assert sink.outcomes[7].error.out_of_memory
        assert "twice" in sink.outcomes[7].error.reason
    assert len(sink.of(0)) == len(sink.of(1)) == len(COORDS)


def test_a_reader_that_is_late_costs_its_slide_alone(mixed, on_evil):
    on_evil(lambda: time.sleep(60))
    started = time.monotonic()
    sink = run_engine(mixed, crew=Crew(1, 2, seconds=1.5), tiles=100, slots=4)
    assert time.monotonic() - started < 20
    assert sink.outcomes[7].error.timed_out
    assert "1.5 s" in sink.outcomes[7].error.reason
    assert len(sink.of(0)) == len(sink.of(1)) == len(COORDS)


def test_a_bug_in_a_reader_ends_the_job_with_its_traceback(mixed, on_evil):
    def bug():
        raise ZeroDivisionError("a bug")

    on_evil(bug)
    with pytest.raises(ZeroDivisionError, match="a bug") as caught:
        run_engine(mixed)
    assert "def bug" in str(caught.value.__cause__) or "in bug" in str(caught.value.__cause__)


def test_a_small_slide_is_read_by_one_reader_while_the_other_goes_ahead(
    disc_slide, tmp_path, monkeypatch
):
    real = pool.answer

    def answer(chunk, slides, out):
        (tmp_path / f"{chunk.source.path.stem}-{os.getpid()}").touch()
        # So that neither reader is far ahead because the machine had no time for the other.
        time.sleep(0.1)
        return real(chunk, slides, out)

    monkeypatch.setattr(pool, "answer", answer)
    works = []
    for number in range(8):
        link = tmp_path / f"slide{number}.tif"
        link.symlink_to(disc_slide)
        works.append(Work(number, Source(link, "auto", GEOMETRY), COORDS[:50]))
    sink = run_engine(works, crew=Crew(2, 1), tiles=32, slots=12)
    assert all(len(sink.of(number)) == 50 for number in range(8))
    by_one = [len(list(tmp_path.glob(f"slide{number}-*"))) == 1 for number in range(8)]
    # The last slides are shared, since there is nothing else to do.
    assert sum(by_one) >= 5


def test_readers_are_gone_afterwards(works):
    run_engine(works, crew=Crew(2, 2))
    assert multiprocessing.active_children() == []
