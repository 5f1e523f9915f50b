from pathlib import Path

import yaml

from slidemill.config import Config, load_config
from slidemill.generate import DEMO, generated

ROOT = Path(__file__).resolve().parents[1]


def test_generated_files_have_not_drifted():
    for path, text in generated(ROOT).items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: python -m slidemill.generate"


def test_the_documented_configuration_is_the_demos():
    assert load_config(ROOT / "config.yaml") == Config.model_validate(DEMO)


def test_every_key_is_documented():
    text = (ROOT / "config.yaml").read_text(encoding="utf-8")
    written = yaml.safe_load(text)
    assert set(written) == set(Config.model_fields) - {"recompute"}
    for name, field in Config.model_fields.items():
        if name != "recompute" and isinstance(written[name], dict):
            assert set(written[name]) == set(field.annotation.model_fields)
