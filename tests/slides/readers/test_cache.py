"""Pieces are decoded once, whoever wants them, in bounded memory."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from slidemill.slides.readers.base import ReadError
from slidemill.slides.readers.cache import PieceCache


def piece(value, size=100):
    return np.full((size, 1, 1), value, np.uint8)


def test_threads_that_want_the_same_piece_decode_it_once():
    cache, calls, ready = PieceCache(1000), [], threading.Barrier(4)

    def decode(spare):
        calls.append(1)
        time.sleep(0.05)
        return piece(7)

    def want(_):
        ready.wait()
        kept = cache.take("a", decode)
        assert (kept.piece == 7).all()
        cache.release(kept)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(want, range(4)))
    assert len(calls) == 1


def test_a_fault_reaches_all_who_wait_and_is_not_kept():
    cache, begun, calls = PieceCache(1000), threading.Event(), []

    def fail(spare):
        calls.append(1)
        begun.set()
        time.sleep(0.05)
        raise ReadError("torn")

    def first():
        with pytest.raises(ReadError):
            cache.take("a", fail)

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait()
    with pytest.raises(ReadError):
        cache.take("a", fail)
    thread.join()
    assert len(calls) == 1
    assert (cache.take("a", lambda spare: piece(1)).piece == 1).all()


def test_memory_is_bounded_and_used_again():
    cache, spares = PieceCache(250), []

    def decode(spare):
        spares.append(spare)
        return piece(len(spares)) if spare is None else spare

    for key in range(20):
        cache.release(cache.take(key, decode))
        assert cache.kept_bytes <= 250
    assert all(spare is None for spare in spares[:3])
    assert all(spare is not None for spare in spares[4:])


def test_the_piece_that_is_looked_at_is_never_written_over():
    cache = PieceCache(100)
    held = cache.take("held", lambda spare: piece(1))

    def decode(spare):
        found = piece(9) if spare is None else spare
        found[:] = 9
        return found

    for key in range(10):
        cache.release(cache.take(key, decode))
    assert (held.piece == 1).all()


def test_what_was_used_last_stays():
    cache, calls = PieceCache(200), []

    def decode(key):
        def run(spare):
            calls.append(key)
            return piece(1)

        return run

    for key in ("a", "b", "a", "c", "a"):
        cache.release(cache.take(key, decode(key)))
    assert calls == ["a", "b", "c"]


def test_pieces_that_the_file_does_not_have_take_no_room():
    cache = PieceCache(100)
    for key in range(5):
        assert cache.take(key, lambda spare: None).piece is None
    assert cache.kept_bytes == 0
    assert not cache._kept


def test_many_threads_see_their_own_pieces():
    cache = PieceCache(1200)

    def decode(value):
        def run(spare):
            found = np.empty((100, 1, 1), np.uint8) if spare is None else spare
            found[:] = value
            return found

        return run

    def work(seed):
        for key in np.random.default_rng(seed).integers(0, 40, 2000).tolist():
            kept = cache.take(key, decode(key))
            assert (kept.piece == key).all()
            cache.release(kept)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert cache.kept_bytes <= 1200
