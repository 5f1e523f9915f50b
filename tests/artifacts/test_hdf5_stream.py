import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidemill.artifacts.formats import FEATURES
from slidemill.artifacts.hdf5 import open_hdf5
from slidemill.artifacts.hdf5_stream import Hdf5Stream
from slidemill.artifacts.provenance import Stamp
from slidemill.errors import ArtifactError

STAMP = Stamp("d" * 64, "i" * 64, "slide")
ATTRIBUTES = {name: 1 for name, _ in FEATURES.attributes}
RNG = np.random.default_rng(0)


def write(path, values, order, kept=None):
    stream = Hdf5Stream(path, FEATURES, STAMP)
    stream.create("features", values.shape, values.dtype)
    for rows in np.array_split(order, 5):
        stream.write("features", rows, values[rows])
    if kept is not None:
        stream.keep(kept)
    coords = np.zeros((len(values) if kept is None else len(kept), 2), np.int64)
    stream.create("coords", coords.shape, np.int64)
    stream.write("coords", np.arange(len(coords)), coords)
    assert not path.exists()
    stream.finish(ATTRIBUTES, {"coords": {"name": "slide"}})


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_in_any_order_give_the_same_bytes(tmp_path, dtype):
    values = RNG.standard_normal((700, 5)).astype(dtype)
    write(tmp_path / "a.h5", values, np.arange(700))
    write(tmp_path / "b.h5", values, RNG.permutation(700))
    with open_hdf5(tmp_path / "b.h5", "features") as file:
        assert (file["features"][:] == values).all()
        assert file["features"].dtype == dtype
        assert file["features"].chunks == (256, 5)
        assert file["coords"].attrs["name"] == "slide"
        assert file.attrs["digest"] == "d" * 64
    with h5py.File(tmp_path / "a.h5") as file:
        assert (file["features"][:] == values).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.h5"]


@given(st.lists(st.booleans(), min_size=1, max_size=900))
def test_rows_that_are_left_out_are_gone(tmp_path_factory, sound):
    kept = np.flatnonzero(sound).astype(np.int64)
    values = np.arange(3 * len(sound), dtype=np.float32).reshape(-1, 3)
    path = tmp_path_factory.mktemp("holes") / "a.h5"
    write(path, values, np.arange(len(sound)), kept)
    with open_hdf5(path, "features") as file:
        assert (file["features"][:] == values[kept]).all()


def test_what_is_not_of_the_format_is_refused_and_leaves_nothing(tmp_path):
    stream = Hdf5Stream(tmp_path / "a.h5", FEATURES, STAMP)
    with pytest.raises(ArtifactError, match="float64"):
        stream.create("features", (3, 2), np.float64)
    with pytest.raises(ArtifactError, match="has datasets"):
        stream.finish(ATTRIBUTES)
    assert list(tmp_path.iterdir()) == []
    stream = Hdf5Stream(tmp_path / "a.h5", FEATURES, STAMP)
    stream.create("features", (3, 2), np.float32)
    stream.abort()
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from slidemill.artifacts.formats import FEATURES
from slidemill.artifacts.hdf5 import write_hdf5
from slidemill.artifacts.hdf5_stream import Hdf5Stream
from slidemill.artifacts.provenance import Stamp
path = Path(sys.argv[1]) / "a.h5"
values = np.ones((2000, 100), np.float32)
attributes = {name: 1 for name, _ in FEATURES.attributes}
stamp = Stamp("d" * 64, "i" * 64)
try:
    if sys.argv[2] == "stream":
        stream = Hdf5Stream(path, FEATURES, stamp)
        try:
            stream.create("features", values.shape, np.float32)
            stream.write("features", np.arange(2000), values)
            stream.create("coords", (2000, 2), np.int64)
            stream.finish(attributes)
        except BaseException:
            stream.abort()
            raise
    else:
        coords = np.zeros((2000, 2), np.int64)
        write_hdf5(path, {"features": values, "coords": coords}, FEATURES, stamp, attributes)
except OSError as error:
    print("full:", error)
"""


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 200 KB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(tmp_path)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("way", ["stream", "at once"])
def test_a_disk_that_is_full_is_an_error_of_the_system_and_leaves_nothing(small_disk, way):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(small_disk), way],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.startswith("full:"), done.stderr
    assert "No space left" in done.stdout
    # HDF5 would crash when the process ends.
    assert done.returncode == 0
    assert list(small_disk.iterdir()) == []
