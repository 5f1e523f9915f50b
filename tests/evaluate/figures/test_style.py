import math
from itertools import pairwise

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from slidemill.evaluate.figures.style import (
    COLOURS,
    DASHES,
    FONT_SIZE,
    NAME,
    columns_of,
    interval,
    line_style,
    look,
    number,
    panels,
    save,
    shown,
    text_width,
)


@look()
def plain_figure() -> Figure:
    figure, (axes,), _ = panels(1, columns=1, panel=(4.0, 3.0))
    axes.plot([0, 1], [0, -2], label="$a_1$")
    axes.set_title("$a_1$ & <b> -- 1^{2}")
    axes.set_xlabel("$")
    return figure


def test_bytes_are_the_same_whatever_the_users_settings_are() -> None:
    first = save(plain_figure())
    with mpl.rc_context({"font.size": 30.0, "svg.hashsalt": "other", "axes.grid": True}):
        assert save(plain_figure()) == first
    assert b"<svg" in first["svg"]
    assert b"matplotlib v" not in first["svg"].lower()
    assert b"dc:date" not in first["svg"]
    assert first["png"].startswith(b"\x89PNG")
    assert b"Software" not in first["png"]


def test_settings_are_put_back() -> None:
    before = mpl.rcParams["font.size"]
    with mpl.rc_context({"font.size": 17.0}):
        plain_figure()
        assert mpl.rcParams["font.size"] == 17.0
    assert mpl.rcParams["font.size"] == before


def test_nothing_is_read_as_mathematics() -> None:
    figure = plain_figure()
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]
    assert "$a_1$ & <b> -- 1^{2}" in {text.get_text() for text in texts}
    assert not any(text.get_parse_math() for text in texts)
    assert {text.get_size() for text in texts} == {FONT_SIZE}


def test_lines_differ_in_colour_and_dash() -> None:
    styles = [line_style(i, control=False) for i in range(len(COLOURS) * len(DASHES))]
    pairs = [(style["color"], style["linestyle"]) for style in styles]
    assert len(set(pairs)) == 28
    for one, two in pairwise(pairs):
        assert one[0] != two[0]
        assert one[1] != two[1]
    assert line_style(0, control=True)["color"] not in COLOURS


def test_names_are_shown_on_one_line_and_not_too_long() -> None:
    assert shown("a\n b\tc") == "a b c"
    for width in (0.5, 1.0, NAME):
        long = shown("a" * 99 + "m" * 99, width)
        assert width - 0.3 < text_width(long) <= width
        assert long.startswith("aa")
        assert long.endswith("m")
    assert shown("abcdefghij", 0.35) == "ab…j"
    assert shown("abc", 0.0) == "…"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.125, "0.12"), (-0.5, "\N{MINUS SIGN}0.50"), (-0.001, "0.00"), (math.nan, "undefined")],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_intervals_say_what_is_defined() -> None:
    assert interval(0.5, 0.25, 1.0) == "0.50 [0.25, 1.00]"
    assert interval(0.5, math.nan, math.nan) == "0.50"
    assert interval(math.nan, 0.1, 0.2) == "undefined"


def test_widths_are_those_of_the_type() -> None:
    assert 0.9 < text_width("m" * 8) < 1.1
    assert text_width("ab\n" + "m" * 8) == text_width("m" * 8)
    assert text_width("") == 0.0
    assert columns_of(["short"] * 5) == 3
    assert columns_of(["m" * 60] * 5) == 1
    assert columns_of([]) == 1
