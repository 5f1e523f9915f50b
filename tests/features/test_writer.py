import h5py
import numpy as np
import pytest

from slidemill.artifacts.formats import FEATURES
from slidemill.artifacts.provenance import Stamp
from slidemill.errors import SlideCode, SlideError
from slidemill.features.engine import Done, Failed
from slidemill.features.runners import Encoded
from slidemill.features.writer import FeatureWriter, Target

RNG = np.random.default_rng(0)
COORDS = RNG.integers(0, 10_000, (300, 2))
ATTRIBUTES = {name: 1 for name, _ in FEATURES.attributes if name != "tiles_left_out"}


@pytest.fixture
def target(tmp_path):
    def of(number):
        path = tmp_path / f"{number}.h5"
        return Target(path, Stamp("d" * 64, "i" * 64), COORDS, ATTRIBUTES, {"name": str(number)})

    return of


def parts(slide, features, tokens=None):
    """Rows of a slide in pieces, out of order."""
    for rows in np.array_split(RNG.permutation(len(features)), 7):
        kept = None if tokens is None else tokens[rows]
        finite = np.ones(len(rows), bool)
        yield Encoded(slide, rows.astype(np.int64), features[rows], kept, finite, 0.0)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_slides_that_overlap_in_time_are_whole(tmp_path, target, dtype):
    features = [RNG.standard_normal((300, 4)).astype(dtype) for _ in range(2)]
    ended = []
    with FeatureWriter(target, dtype, ended.append) as writer:
        for slide in (0, 1):
            writer.begin(slide, 300, 4)
        for pair in zip(parts(0, features[0]), parts(1, features[1]), strict=True):
            for encoded in pair:
                writer.write(encoded)
        sound = np.delete(np.arange(300), [5, 17])
        writer.end(Done(1, sound, 1.0, 0.5))
        writer.end(Done(0, np.arange(300), 1.0, 0.5))
    assert [outcome.slide for outcome in ended] == [1, 0]
    with h5py.File(tmp_path / "1.h5") as file:
        assert (file["features"][:] == features[1][sound]).all()
        assert (file["coords"][:] == COORDS[sound]).all()
        assert file["features"].dtype == dtype
        assert file["features"].chunks == (256, 4)
        assert file.attrs["tiles_left_out"] == 2
        assert file["coords"].attrs["name"] == "1"
    with h5py.File(tmp_path / "0.h5") as file:
        assert (file["features"][:] == features[0]).all()


def test_tokens_lie_beside_the_features(tmp_path, target):
    features = RNG.standard_normal((300, 4)).astype("float16")
    tokens = RNG.standard_normal((300, 2, 3, 4)).astype("float16")
    with FeatureWriter(target, "float16", lambda outcome: None) as writer:
        writer.begin(0, 300, 4)
        for encoded in parts(0, features, tokens):
            writer.write(encoded)
        writer.end(Done(0, np.arange(1, 300), 1.0, 0.0))
    with h5py.File(tmp_path / "0.h5") as file:
        assert (file["tokens"][:] == tokens[1:]).all()


def test_a_slide_that_failed_leaves_nothing(tmp_path, target):
    error = SlideError(SlideCode.READ_ERROR, "x")
    with FeatureWriter(target, "float32", lambda outcome: None) as writer:
        writer.begin(0, 300, 4)
        writer.write(next(parts(0, np.ones((300, 4), np.float32))))
        writer.end(Failed(0, error, 1.0))
        writer.end(Failed(1, error, 0.0))
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_dies_leaves_no_half_file(tmp_path, target):
    with (
        pytest.raises(ZeroDivisionError),
        FeatureWriter(target, "float32", lambda outcome: None) as writer,
    ):
        writer.begin(0, 300, 4)
        writer.write(next(parts(0, np.ones((300, 4), np.float32))))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_the_disk_is_raised_where_features_come_from(tmp_path):
    (tmp_path / "file").write_text("")

    def target(number):
        # A folder that cannot be made, since it is a file.
        return Target(tmp_path / "file" / "0.h5", Stamp("d", "i"), COORDS, ATTRIBUTES, {})

    def feed():
        with FeatureWriter(target, "float32", lambda outcome: None) as writer:
            for encoded in parts(0, np.ones((300, 4), np.float32)):
                writer.begin(0, 300, 4)
                writer.write(encoded)

    with pytest.raises((NotADirectoryError, FileExistsError)):
        feed()
