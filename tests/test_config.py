import pytest
import yaml

from slidemill.config import Config, load_config, parse_config
from slidemill.errors import ConfigError


def problems(values):
    with pytest.raises(ConfigError) as caught:
        parse_config(values, "config.yaml")
    return {problem.where: problem for problem in caught.value.problems}


def test_all_faults_are_reported_together_with_their_place():
    found = problems(
        {
            "tiles": {"tilepx": 3, "grid": "hex"},
            "cohort": {"max_failed": 2},
            "evaluate": {"tasks": [{"name": "a/b", "column": "x"}]},
            "pretrian": {},
        }
    )
    assert set(found) == {
        "tiles.tilepx",
        "tiles.grid",
        "cohort.max_failed",
        "evaluate.tasks.0.name",
        "pretrian",
    }
    assert "tile_px" in found["tiles.tilepx"].todo
    assert "pretrain" in found["pretrian"].todo


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"tiles": {"mpp": 1, "magnification": 20}}, "tiles"),
        ({"tiles": {"tile_px": 64, "overlap_px": 64}}, "tiles"),
        ({"features": {"encoders": ["rgb-mean", "rgb-mean"]}}, "features.encoders"),
        ({"recompute": "feature"}, "recompute.0"),
        ({"pretrain": {"runs": [{"width": 90, "heads": 4}]}}, "pretrain.runs.0"),
        ({"pretrain": {"runs": [{}, {}]}}, "pretrain.runs"),
        ({"tissue": None}, "tissue"),
        ("text", "the file"),
    ],
)
def test_wrong_values_are_refused_where_they_stand(values, where):
    assert where in problems(values)


def test_magnification_is_a_resolution():
    assert parse_config({"tiles": {"magnification": 20}}, "x").tiles.resolved_mpp() == 0.5
    assert parse_config({}, "x").tiles.resolved_mpp() == 0.5
    assert parse_config({"tiles": {"mpp": "auto"}}, "x").tiles.resolved_mpp() == "auto"


def test_recompute_takes_commas():
    assert parse_config({"recompute": "tiles, features"}, "x").recompute == ("tiles", "features")


def test_missing_file_and_broken_yaml_are_said_without_traceback(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(ConfigError, match="not YAML"):
        load_config(broken)


def test_a_config_survives_json_and_yaml(tmp_path):
    config = parse_config({"cohort": {"missing_mpp": 0.25}, "tiles": {"mpp": 1}}, "x")
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(path) == config
    assert isinstance(config, Config)
