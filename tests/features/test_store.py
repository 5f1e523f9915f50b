import threading
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidemill.artifacts.formats import FEATURES
from slidemill.artifacts.hdf5 import write_hdf5
from slidemill.artifacts.provenance import Stamp
from slidemill.errors import CohortError
from slidemill.features import store as module
from slidemill.features.store import FeatureStore
from slidemill.pretrain.bags import BagSource

ATTRIBUTES = {
    "encoder": "uni",
    "weights_sha256": "ab" * 32,
    "mpp": 0.5,
    "tile_px": 256,
    "mpp_x": 0.25,
    "mpp_y": 0.2525,
    "step_x": 512.0,
    "step_y": 506.9,
    "tiles_left_out": 0,
    "output": "cls",
    "precision": "fp16",
}


def write_slide(folder, name, features, **attributes):
    coords = np.arange(2 * len(features)).reshape(-1, 2)
    arrays = {"features": features, "coords": coords}
    write_hdf5(folder / f"{name}.h5", arrays, FEATURES, Stamp("", name), ATTRIBUTES | attributes)


def store_of(folder, *names):
    rows = [(name, "ok", name, f"{name}.h5") for name in names] + [("lost", "failed", "", None)]
    return FeatureStore(
        folder, pd.DataFrame(rows, columns=["slide_id", "status", "item_digest", "path"])
    )


def numbers(rows, dim, dtype):
    return np.random.default_rng(rows).normal(size=(rows, dim)).astype(dtype)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A slide of 20 chunks, float16, and its features."""
    folder = tmp_path_factory.mktemp("large")
    features = numbers(5000, 64, np.float16)
    write_slide(folder, "a", features)
    return folder, features


def test_a_store_has_the_slides_that_are_done(tmp_path):
    for name, tiles in (("a", 3), ("b", 5)):
        write_slide(tmp_path, name, numbers(tiles, 4, np.float32))
    store = store_of(tmp_path, "a", "b")
    bags: BagSource = store
    assert len(store) == 2
    assert (bags.slide_ids, store.item_digests, bags.dim) == (["a", "b"], ["a", "b"], 4)
    assert bags.coords(1).tolist() == np.arange(10).reshape(5, 2).tolist()
    assert store.subset({"b", "lost"}) == [1]
    with pytest.raises(CohortError, match="no slide has features"):
        store_of(tmp_path)


def test_steps_are_in_pixels_and_in_micrometres(large):
    store = store_of(large[0], "a")
    assert store.step(0) == (512.0, 506.9)
    assert store.step_um(0) == pytest.approx((128.0, 506.9 * 0.2525))


@settings(max_examples=60)
@given(st.lists(st.integers(0, 4999), max_size=300))
def test_rows_come_in_the_order_they_were_asked_for(large, rows):
    folder, features = large
    found = store_of(folder, "a").features(0, np.array(rows, dtype=np.int64))
    assert found.dtype == np.float16
    assert np.array_equal(found, features[rows])


@pytest.mark.parametrize("apart", [1, 2, 7, 8, 9, 300])
def test_rows_of_any_distance_are_right(large, apart):
    folder, features = large
    rows = np.arange(0, 5000, apart)
    assert np.array_equal(store_of(folder, "a").features(0, rows), features[rows])


@pytest.mark.parametrize("row", [-1, 5000])
def test_rows_that_are_not_there_are_an_error(large, row):
    with pytest.raises(IndexError, match="rows are 0 to 4999"):
        store_of(large[0], "a").features(0, np.array([3, row]))


def bytes_read():
    with Path("/proc/self/io").open() as file:
        return int(file.readline().split()[1])


def test_rows_are_read_without_the_rest_of_the_slide(tmp_path):
    features = numbers(6000, 512, np.float16)
    write_slide(tmp_path, "a", features)
    store = store_of(tmp_path, "a")
    # A window of 12 x 12 tiles on tissue 75 tiles wide.
    rows = (np.arange(12)[:, None] * 75 + np.arange(12) + 2000).ravel()
    try:
        before = bytes_read()
    except OSError:
        pytest.skip("this system does not count the bytes that a process reads")
    store.features(0, rows)
    read = bytes_read() - before
    assert features[rows].nbytes <= read < 1.5 * features[rows].nbytes
    assert not store._kept


def test_a_whole_slide_comes_as_float32_and_is_kept(large, monkeypatch):
    folder, features = large
    store = store_of(folder, "a")
    whole = store.features(0)
    assert whole.dtype == np.float32
    assert np.array_equal(whole, features.astype(np.float32))
    assert store.stored(0).dtype == np.float16
    monkeypatch.setattr(module, "open_hdf5", None)
    assert np.array_equal(store.features(0), whole)
    rows = np.array([7, 3])
    assert store.features(0, rows).dtype == np.float16
    assert np.array_equal(store.features(0, rows), features[rows])


def test_slides_that_nobody_asked_for_longest_leave_memory(tmp_path, monkeypatch):
    for name in "abc":
        write_slide(tmp_path, name, numbers(10, 4, np.float32))
    monkeypatch.setattr(module, "CACHE_BYTES", 2 * 10 * 4 * 4)
    store = store_of(tmp_path, *"abc")
    for i in (0, 1, 0, 2):
        store.features(i)
    assert list(store._kept) == [0, 2]
    assert store._bytes == 2 * 10 * 4 * 4


def test_threads_may_share_a_store(tmp_path):
    features = [numbers(400 + i, 16, np.float16) for i in range(4)]
    for i, one in enumerate(features):
        write_slide(tmp_path, str(i), one)
    store = store_of(tmp_path, *"0123")
    wrong = []

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(40):
            i = int(rng.integers(4))
            rows = rng.permutation(400)[:50]
            whole = rng.random() < 0.2
            found = store.features(i)[rows] if whole else store.features(i, rows)
            if not np.array_equal(found, features[i][rows]):
                wrong.append((seed, i))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert store._bytes == sum(one.nbytes for one in store._kept.values())


@pytest.mark.parametrize(
    ("dim", "attributes", "named"),
    [
        (6, {}, "6 features of uni"),
        (4, {"encoder": "virchow2"}, "4 features of virchow2"),
        (4, {"weights_sha256": "cd" * 32}, "weights cdcdcdcdcdcd"),
    ],
)
def test_features_of_two_encoders_are_refused(tmp_path, dim, attributes, named):
    write_slide(tmp_path, "first", numbers(3, 4, np.float32))
    write_slide(tmp_path, "second", numbers(3, dim, np.float32), **attributes)
    rows = np.array([0])
    asks = [
        lambda store: store.features(1),
        lambda store: store.features(1, rows),
        lambda store: store.stored(1),
        lambda store: store.coords(1),
        lambda store: store.step(1),
        lambda store: store.check_encoder(),
    ]
    for ask in asks:
        store = store_of(tmp_path, "first", "second")
        store.features(0, rows)
        with pytest.raises(CohortError, match=rf"slide first has 4 .* slide second has .*{named}"):
            ask(store)


def test_features_of_one_encoder_pass_the_check(tmp_path):
    for name, tiles in (("a", 3), ("b", 5)):
        write_slide(tmp_path, name, numbers(tiles, 4, np.float32), mpp_x=0.2 + tiles)
    store_of(tmp_path, "a", "b").check_encoder()


def test_what_writes_features_does_not_compress_them(large):
    """Rows are read past the cache of chunks, which would be slow if chunks were compressed."""
    with h5py.File(large[0] / "a.h5") as file:
        assert file["features"].chunks == (256, 64)
        assert file["features"].compression is None
