"""HDF5 and Parquet: written by us, read by h5py and pandas alone."""

import json

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from slidemill.artifacts import formats
from slidemill.artifacts.hdf5 import open_hdf5, write_hdf5
from slidemill.artifacts.parquet import read_footer, read_parquet, write_parquet
from slidemill.artifacts.provenance import PRODUCER, Stamp
from slidemill.artifacts.spec import ArtifactSpec, all_specs, find_spec, register
from slidemill.errors import ArtifactError

STAMP = Stamp("d" * 64, "i" * 64, "s1", {"tissue": "u" * 64}, {"tile_px": 256})
ATTENTION_FACTS = {"repeat": 0, "fold": 1, "model": "abmil", "input": "uni"}


def tiles(n=3):
    return pd.DataFrame(
        {
            "x": np.arange(n, dtype=np.int64),
            "y": np.arange(n, dtype=np.int64),
            "tissue_fraction": np.ones(n, np.float32),
            "padded_fraction": np.zeros(n, np.float32),
            "pen_fraction": np.zeros(n, np.float32),
            "white_fraction": np.zeros(n, np.float32),
            "black_fraction": np.zeros(n, np.float32),
            "focus": np.full(n, np.nan, np.float32),
            "read_error": np.zeros(n, bool),
            "keep": np.ones(n, bool),
        }
    )


def write_attention(path, n=5):
    arrays = {
        "attention": np.full(n, 1 / max(n, 1), np.float32),
        "coords": np.arange(2 * n, dtype=np.int64).reshape(n, 2),
    }
    write_hdf5(path, arrays, formats.ATTENTION, STAMP, ATTENTION_FACTS)


def test_pandas_alone_reads_a_table_and_its_provenance(tmp_path):
    path = tmp_path / "t.parquet"
    write_parquet(path, tiles(), formats.TILES, STAMP, {"geometry": {"tile_px": 256}})
    frame = pd.read_parquet(path)
    assert frame.dtypes.astype(str).to_dict() == {
        "x": "int64",
        "y": "int64",
        "tissue_fraction": "float32",
        "padded_fraction": "float32",
        "pen_fraction": "float32",
        "white_fraction": "float32",
        "black_fraction": "float32",
        "focus": "float32",
        "read_error": "bool",
        "keep": "bool",
    }
    footer = json.loads(pq.read_metadata(path).metadata[b"slidemill"])
    assert footer["digest"] == "d" * 64
    assert footer["producer"] == PRODUCER
    assert footer["geometry"] == {"tile_px": 256}
    assert read_footer(path) == footer


def test_h5py_alone_reads_an_array_and_its_provenance(tmp_path):
    path = tmp_path / "a.h5"
    write_attention(path)
    with h5py.File(path) as file:
        assert file["coords"].dtype == np.int64
        assert file["attention"][:].sum() == pytest.approx(1)
        assert file.attrs["artifact_type"] == "attention"
        assert file.attrs["slide_id"] == "s1"
        assert json.loads(file.attrs["upstream"]) == {"tissue": "u" * 64}


def test_the_same_inputs_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_attention(tmp_path / f"{name}.h5")
        write_parquet(tmp_path / f"{name}.parquet", tiles(), formats.TILES, STAMP)
    for suffix in ("h5", "parquet"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_an_empty_table_keeps_its_types(tmp_path):
    write_parquet(tmp_path / "t.parquet", tiles(0), formats.TILES, STAMP)
    assert read_parquet(tmp_path / "t.parquet", "tiles").dtypes["x"] == np.int64


@pytest.mark.parametrize(
    "frame", [tiles().drop(columns="x"), tiles().assign(extra=1), tiles().assign(x="a")]
)
def test_a_table_of_another_shape_is_refused(tmp_path, frame):
    with pytest.raises(ArtifactError):
        write_parquet(tmp_path / "t.parquet", frame, formats.TILES, STAMP)
    assert not (tmp_path / "t.parquet").exists()


def test_wrong_dtype_and_wrong_datasets_are_refused(tmp_path):
    good = {"attention": np.ones(2, np.float64), "coords": np.ones((2, 2), np.int64)}
    with pytest.raises(ArtifactError, match="float32"):
        write_hdf5(tmp_path / "a.h5", good, formats.ATTENTION, STAMP, ATTENTION_FACTS)
    with pytest.raises(ArtifactError, match="has datasets"):
        write_hdf5(tmp_path / "a.h5", {}, formats.ATTENTION, STAMP, ATTENTION_FACTS)
    assert not (tmp_path / "a.h5").exists()


def test_missing_damaged_and_foreign_files_are_said_in_words(tmp_path):
    for read, suffix in ((lambda p: read_parquet(p, "tiles"), "parquet"), (open_hdf5, "h5")):
        path = tmp_path / f"x.{suffix}"
        with pytest.raises(ArtifactError, match="no such file"):
            read(path)
        path.write_bytes(b"rubbish")
        with pytest.raises(ArtifactError, match="not readable"):
            read(path)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "foreign.parquet")
    with pytest.raises(ArtifactError, match="no slidemill footer"):
        read_parquet(tmp_path / "foreign.parquet", "tiles")
    write_attention(tmp_path / "a.h5")
    with pytest.raises(ArtifactError, match="features file is needed"):
        open_hdf5(tmp_path / "a.h5", "features")


def test_an_unknown_version_names_what_is_known(tmp_path):
    write_attention(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file.attrs["artifact_version"] = 99
    with pytest.raises(ArtifactError, match=r"version 99.*reads versions \[1, 2\]"):
        open_hdf5(tmp_path / "a.h5", "attention")
    with pytest.raises(ArtifactError, match="no such type"):
        find_spec("nonsense", 1, "x")


def test_a_format_is_registered_once():
    with pytest.raises(ValueError, match="twice"):
        register(ArtifactSpec("tiles", 1, "parquet", "", ()))
    assert len({(spec.type, spec.version) for spec in all_specs()}) == len(all_specs())
