"""What docs/pretraining.md shows can be done as it is shown."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from slidemill.config import parse_config

TEXT = (Path(__file__).parents[2] / "docs" / "pretraining.md").read_text(encoding="utf-8")


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", blocks("yaml"))
def test_configurations_are_valid(block):
    assert parse_config(yaml.safe_load(block), "docs/pretraining.md").pretrain.runs


def test_python_is_python():
    assert [ast.parse(block) for block in blocks("python")]


def test_links_lead_somewhere():
    folder = Path(__file__).parents[2] / "docs"
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", TEXT):
        assert (folder / target).is_file(), target
