import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidemill.artifacts import formats
from slidemill.artifacts.folder import StageId, open_folder, read_dataset
from slidemill.errors import ArtifactError

BASE = StageId("tissue", "otsu", formats.TISSUE, 1, {"mpp": 8.0})


@given(st.dictionaries(st.text(max_size=5), st.integers(), max_size=3))
def test_parameters_and_upstream_change_the_digest_and_labels_do_not(parameters):
    other = dataclasses.replace(BASE, parameters=parameters)
    assert (other.digest == BASE.digest) == (parameters == {"mpp": 8.0})
    above = StageId("tiles", "t", formats.TILES, 1, {}, (BASE,))
    below = StageId("tiles", "t", formats.TILES, 1, {}, (other,))
    assert (above.digest == below.digest) == (BASE.digest == other.digest)
    assert dataclasses.replace(BASE, label="x").digest == BASE.digest


def test_versions_change_the_digest():
    assert dataclasses.replace(BASE, algorithm_version=2).digest != BASE.digest
    spec = dataclasses.replace(formats.TISSUE, version=99)
    assert dataclasses.replace(BASE, spec=spec).digest != BASE.digest


def test_a_folder_of_another_digest_is_refused(tmp_path):
    folder = open_folder(BASE, tmp_path)
    assert folder.name == f"otsu-{BASE.digest[:10]}"
    assert open_folder(BASE, tmp_path) == folder
    facts = read_dataset(folder)
    assert facts["DatasetType"] == "derivative"
    (folder / "dataset.json").write_text(json.dumps(facts | {"Digest": "0" * 64}))
    with pytest.raises(ArtifactError, match="Move it away"):
        open_folder(BASE, tmp_path)
