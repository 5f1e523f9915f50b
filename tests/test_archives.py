"""A file of every format version is kept for ever and has to stay readable.

`SLIDEMILL_UPDATE_ARCHIVES=1 pytest tests/test_archives.py` writes the files of new versions; it
never writes over one that is there.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from slidemill.artifacts.hdf5 import open_hdf5, write_hdf5
from slidemill.artifacts.parquet import read_footer, read_parquet, write_parquet
from slidemill.artifacts.provenance import Stamp
from slidemill.artifacts.spec import all_specs, newest
from slidemill.errors import WeightsError
from slidemill.pretrain.checkpoint import (
    CHECKPOINT_VERSION,
    TrainedOn,
    load_checkpoint,
    read_trained_on,
    save_checkpoint,
)
from slidemill.pretrain.longnet import LongNet
from slidemill.pretrain.vit import SlideTransformer

ARCHIVES = Path(__file__).with_name("archives")
STAMP = Stamp("d" * 64, "i" * 64, "slide", {"upstream": "u" * 64}, {"key": 1})
SPECS = {f"{spec.type}-v{spec.version}": spec for spec in all_specs()}


def path_of(name):
    suffix = {"parquet": "parquet", "hdf5": "h5"}[SPECS[name].container]
    return ARCHIVES / f"{name}.{suffix}"


def write_archive(name):
    spec = SPECS[name]
    if spec.container == "parquet":
        values = {"str": ["a", "b"], "bool": [True, False]}
        columns = {f.name: values.get(f.dtype, np.arange(2).astype(f.dtype)) for f in spec.fields}
        write_parquet(path_of(name), pd.DataFrame(columns), spec, STAMP)
        return
    ranks = {
        f.name: len([part for part in f.shape.strip("()").split(",") if part]) for f in spec.fields
    }
    arrays = {f.name: np.ones((2,) * ranks[f.name], f.dtype) for f in spec.fields}
    write_hdf5(path_of(name), arrays, spec, STAMP, {key: 1 for key, _ in spec.attributes})


@pytest.mark.parametrize("name", sorted(SPECS))
def test_files_of_every_version_are_readable(name):
    spec = SPECS[name]
    if os.environ.get("SLIDEMILL_UPDATE_ARCHIVES") and not path_of(name).exists():
        assert spec == newest(spec.type), "only files of the newest version can still be written"
        write_archive(name)
    if spec.container == "parquet":
        frame = read_parquet(path_of(name), spec.type)
        assert list(frame.columns) == [item.name for item in spec.fields]
        assert len(frame) == 2
        assert read_footer(path_of(name))["upstream"] == '{"upstream": "' + "u" * 64 + '"}'
    else:
        with open_hdf5(path_of(name), spec.type) as file:
            assert {item.name for item in spec.fields} <= set(file)
            assert file.attrs["digest"] == "d" * 64


def test_no_archive_is_of_a_format_that_is_gone():
    kept = {path.stem for path in ARCHIVES.iterdir() if path.suffix in (".h5", ".parquet")}
    assert kept == set(SPECS)


CHECKPOINTS = {"2": (SlideTransformer, LongNet)}
"""Slide encoders by version of the checkpoint; the first version is refused, with words."""


@pytest.mark.parametrize(
    ("version", "kind"), [(v, kind) for v, kinds in CHECKPOINTS.items() for kind in kinds]
)
def test_checkpoints_of_every_version_are_readable(version, kind):
    path = ARCHIVES / f"checkpoint-{kind.kind}-v{version}.safetensors"
    if os.environ.get("SLIDEMILL_UPDATE_ARCHIVES") and not path.exists():
        assert version == CHECKPOINT_VERSION
        facts = STAMP.as_attributes("checkpoint", 2)
        save_checkpoint(path, kind(3, 8, 1, 1), facts, TrainedOn.of(["P"], ["S"]))
    encoder = load_checkpoint(path)
    assert isinstance(encoder, kind)
    assert read_trained_on(path).patients == ("P",)


def test_a_checkpoint_of_an_unknown_version_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    monkeypatch.setattr("slidemill.pretrain.checkpoint.CHECKPOINT_VERSION", "99")
    facts = {"producer": "slidemill 7.0"}
    save_checkpoint(path, SlideTransformer(3, 8, 1, 1), facts, TrainedOn.of(["P"], ["S"]))
    monkeypatch.undo()
    with pytest.raises(WeightsError, match=r"version '99'.*Install slidemill 7\.0, or a newer one"):
        load_checkpoint(path)
