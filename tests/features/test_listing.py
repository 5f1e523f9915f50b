"""Lists of encoders: at the command line, in a pipe, and in the documentation."""

import io
import re

import pytest
from rich.console import Console

from slidemill.errors import ConfigError
from slidemill.features.document import encoders_text
from slidemill.features.listing import facts, print_encoder, print_encoders
from slidemill.features.registry import ENCODERS


@pytest.fixture(autouse=True)
def _bare(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("SLIDEMILL_WEIGHTS", str(tmp_path / "weights"))


def printed(function, *arguments):
    stream = io.StringIO()
    function(*arguments, Console(file=stream, width=100))
    return stream.getvalue()


def test_the_list_names_every_encoder_once_within_100_columns(tmp_path):
    folder = tmp_path / "weights" / "gpfm"
    folder.mkdir(parents=True)
    (folder / "GPFM.pth").write_bytes(b"x")
    lines = printed(print_encoders).splitlines()
    assert max(map(len, lines)) <= 100
    first = [line.split()[0] for line in lines if line.strip()]
    loadable = [name for name, spec in ENCODERS.items() if spec.builder != "none"]
    assert [word for word in first if word in ENCODERS] == loadable
    row = {line.split()[0]: line.split() for line in lines if line.strip()}
    assert row["uni2-h"][1:] == [
        "1536", "256", "@", "0.5", "bf16", "681", "CC-BY-NC-ND-4.0", "yes", "no",
    ]  # fmt: skip
    assert row["gpfm"][-1] == "yes"
    text = " ".join(" ".join(lines).split())
    assert "Without public weights: virchow2g, pluto," in text


def test_all_of_an_encoder_is_shown():
    text = printed(print_encoder, "virchow2")
    for part in ("cls+mean (default), 2560", "631,239,424", "170.1", "reg_tokens", "bicubic"):
        assert part in text
    assert "PathAI has published none" in printed(print_encoder, "pluto")
    assert "exactly 224 px" in printed(print_encoder, "h-optimus-0")
    with pytest.raises(ConfigError, match="Did you mean uni"):
        print_encoder("unii")


@pytest.mark.parametrize("name", list(ENCODERS))
def test_facts_have_words(name):
    found = facts(ENCODERS[name])
    assert found[0] == ("name", name)
    assert len({heading for heading, _ in found}) == len(found)
    assert all(words.strip() and words != "None" for _, words in found)


def test_the_document_has_a_row_for_every_encoder_and_equal_columns():
    text = encoders_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    names = [re.match(r"\| `([^`]+)`", line)[1] for line in rows]
    assert names == [name for name, spec in ENCODERS.items() if spec.builder != "none"]
    assert {line.count("|") for line in rows} == {11}
    for name, spec in ENCODERS.items():
        assert f"- `{name}`" in text
        assert spec.citation.rstrip(".") in text
    assert not re.search(r"\| (None)? *\|", text)
