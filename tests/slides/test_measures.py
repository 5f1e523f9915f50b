"""Numbers with decimal commas, units and blanks."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidemill.slides.measures import factor_of, magnification, number, with_unit

FINITE = st.floats(min_value=1e-6, max_value=1e6)


@pytest.mark.parametrize(
    ("text", "um"),
    [
        ("0.499", 0.499),
        ("0,499", 0.499),
        (" 0,499 \n", 0.499),
        ("0.25 um", 0.25),
        ("0.25um", 0.25),
        ("0.25 \N{MICRO SIGN}m", 0.25),
        ("0.25 \N{GREEK SMALL LETTER MU}m/px", 0.25),
        ("0,25 \N{MICRO SIGN}m/pixel", 0.25),
        ("0.25 um per pixel", 0.25),
        ("0.25 / px", 0.25),
        ("0.25 microns/pixel", 0.25),
        ("250 nm", 0.25),
        ("250nm/px", 0.25),
        ("0.00025 mm", 0.25),
        ("2.5e-4 MM", 0.25),
        (".25", 0.25),
    ],
)
def test_a_length_as_it_is_written(text, um):
    assert with_unit(text) == pytest.approx(um)


@pytest.mark.parametrize(
    "text",
    [
        None, "", "n/a", "um", "0.25 dpi", "0.25 0.26", "0.25;0.26", "1,234.5", "1.234,5",
        "1,2,3", "0.25 um um", "0x10", "1_000", "\u0660,\u0662\u0665", "0.25 per", "--1", "about 1",
    ],
)  # fmt: skip
def test_what_can_be_read_in_two_ways_or_in_none_is_no_number(text):
    assert number(text) is None
    assert with_unit(text) is None


@given(FINITE, st.sampled_from([".", ","]), st.sampled_from(["", " ", "\t", "\n"]))
def test_every_number_is_read_as_it_was_written(value, sign, blank):
    text = blank + repr(value).replace(".", sign) + blank
    assert number(text) == value
    assert with_unit(text) == value
    assert with_unit(f"{text} nm") == pytest.approx(value / 1000)
    assert magnification(text + "x") == value


@given(st.text(max_size=12))
def test_any_text_is_a_number_or_none(text):
    for found in (number(text), with_unit(text), magnification(text), factor_of(text)):
        assert found is None or isinstance(found, float)


def test_the_unit_that_is_meant_gives_way_to_the_one_that_is_written():
    assert with_unit("0.00025", 1000.0) == pytest.approx(0.25)
    assert with_unit("0.25 um", 1000.0) == 0.25


@pytest.mark.parametrize("text", ["20", "20x", "20 X", "x20", "20\N{MULTIPLICATION SIGN}", "20,0"])
def test_a_magnification_as_it_is_written(text):
    assert magnification(text) == 20.0
    assert magnification("lens") is None
    assert math.isnan(magnification("nan"))
