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
        ({"pretrain": {"runs": [{"size": "2x90", "heads": 4}]}}, "pretrain.runs.0"),
        ({"pretrain": {"runs": [{}, {}]}}, "pretrain.runs"),
        ({"tissue": None}, "tissue"),
        ("text", "the file"),
    ],
)
def test_wrong_values_are_refused_where_they_stand(values, where):
    assert where in problems(values)


@pytest.mark.parametrize(
    ("run", "where", "words"),
    [
        ({"method": "dino", "ibot": {"weight": 0.5}}, "", "dinov2-compact: leave it out"),
        ({"method": "dinov2-compact", "crops": {"unit": "um"}}, "", "has to be share"),
        ({"size": "2x96", "heads": 5}, "", "multiple of 4 x heads"),
        ({"size": "2 x 96"}, ".size", "pattern"),
        ({"size": "0x96"}, ".size", "pattern"),
        ({"crops": {"global_size": [0.9, 0.5]}}, ".crops", "smallest, largest"),
        ({"crops": {"local_size": [0.1, 1.5]}}, ".crops", "at most 1"),
        ({"crops": {"global_crops": 1}}, ".crops.global_crops", "greater than or equal to 2"),
        ({"ibot": {"ratio": [0.5, 0.1]}}, ".ibot", "smallest, largest"),
        ({"ibot": {"ratio": [0.5, 1.0]}}, ".ibot", "below 1"),
        ({"batch_slides": 1}, ".batch_slides", "greater than or equal to 2"),
        ({"learning_rate": 0.0}, ".learning_rate", "greater than 0"),
        ({"teacher_momentum": 1.0}, ".teacher_momentum", "less than 1"),
        ({"teacher_temperature": [0.0, 0.1]}, ".teacher_temperature.0", "greater than 0"),
        ({"max_tiles": 4}, ".max_tiles", "greater than or equal to 8"),
        ({"width": 96}, ".width", "unknown"),
    ],
)
def test_a_pretraining_that_cannot_be_is_refused_where_it_stands(run, where, words):
    with pytest.raises(ConfigError) as caught:
        parse_config({"pretrain": {"runs": [run]}}, "config.yaml")
    (problem,) = caught.value.problems
    assert problem.where == f"pretrain.runs.0{where}"
    assert words in str(problem)


def test_what_a_method_needs_is_chosen_by_itself():
    def chosen(**settings):
        run = parse_config({"pretrain": {"runs": [settings]}}, "x").pretrain.runs[0]
        return run.chosen_targets, run.chosen_regulariser, run.masks_tiles

    assert chosen(method="dino") == ("sinkhorn", "koleo", False)
    assert chosen(method="dinov2") == ("sinkhorn", "koleo", True)
    assert chosen(method="dinov2-compact", targets="centring", regulariser="kde") == (
        "centring", "kde", True,
    )  # fmt: skip
    assert chosen(method="dinov2", regulariser="none") == ("sinkhorn", "none", True)


def test_sizes_of_slide_encoders_are_blocks_times_width():
    for size, heads, sizes in (
        ("6x384", "auto", (6, 384, 6)), ("12x768", "auto", (12, 768, 12)),
        ("24x1024", "auto", (24, 1024, 16)), ("2x32", "auto", (2, 32, 1)), ("2x96", 4, (2, 96, 4)),
    ):  # fmt: skip
        values = {"pretrain": {"runs": [{"size": size, "heads": heads}]}}
        run = parse_config(values, "x").pretrain.runs[0]
        assert (run.depth, run.width, run.n_heads) == sizes


def test_sizes_in_micrometres_may_be_of_any_number():
    crops = {"unit": "um", "global_size": [2000, 4000], "local_size": [500, 1000]}
    values = {"pretrain": {"runs": [{"crops": crops}]}}
    assert parse_config(values, "x").pretrain.runs[0].crops.global_size == (2000, 4000)


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
