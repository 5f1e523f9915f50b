import threading
import time

import pytest

from slidemill.pretrain.prefetch import AHEAD, ahead, each


def loaders():
    return [t for t in threading.enumerate() if t.name.startswith(("crop-loader", "crop-reader"))]


def double(job, pool):
    return sum(each(pool, lambda part: part, [job, job]))


def test_results_come_in_order_and_threads_end():
    assert list(ahead(double, range(20), 3)) == [2 * job for job in range(20)]
    assert loaders() == []


def test_nothing_to_do_is_done():
    assert list(ahead(double, [], 2)) == []


def test_each_does_without_a_pool():
    assert each(None, lambda job: job + 1, range(3)) == [1, 2, 3]


def test_work_runs_ahead_but_not_far():
    started = []

    def work(job, pool):
        started.append(job)
        return job

    results = ahead(work, range(50), 2)
    assert started == []
    next(results)
    time.sleep(0.3)
    # One is out, AHEAD wait, and one waits to be handed over.
    assert 2 <= len(started) <= 2 + AHEAD
    results.close()
    assert loaders() == []


def test_an_error_is_raised_in_the_place_of_its_result():
    def work(job, pool):
        if job == 3:
            raise KeyError("row")
        return job

    results = ahead(work, range(9), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="row"):
        next(results)
    assert loaders() == []


def test_an_error_of_a_reader_reaches_the_consumer():
    def fail(part):
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        next(ahead(lambda job, pool: each(pool, fail, [1, 2, 3]), range(2), 2))
    assert loaders() == []


@pytest.mark.parametrize("taken", [1, 4])
def test_a_consumer_that_stops_stops_the_threads(taken):
    def work(job, pool):
        return each(pool, lambda part: time.sleep(0.01), range(4))

    results = ahead(work, range(1000), 2)
    for _ in range(taken):
        next(results)
    assert len(loaders()) > 1
    results.close()
    assert loaders() == []


def test_a_consumer_that_fails_stops_the_threads():
    def consume():
        for one in ahead(double, range(100), 2):
            raise RuntimeError(one)

    with pytest.raises(RuntimeError):
        consume()
    assert loaders() == []


def test_parts_are_worked_on_side_by_side():
    both = threading.Barrier(2, timeout=5)
    assert next(ahead(lambda job, pool: each(pool, lambda _: both.wait(), "ab"), [0], 2)) in (
        [0, 1],
        [1, 0],
    )
