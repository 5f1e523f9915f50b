import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidemill.cohort.missing import MARKERS, Missing
from slidemill.cohort.twins import number_key, plain, twin_groups, twin_key, visible


@given(st.text())
def test_the_key_of_a_key_is_itself(text):
    assert twin_key(twin_key(text)) == twin_key(text)


@given(st.text())
def test_forms_that_look_alike_have_one_key(text):
    key = twin_key(text)
    for form in ("NFC", "NFD"):
        assert twin_key(unicodedata.normalize(form, text)) == key
    assert twin_key(f" {text} ") == key
    assert twin_key(f"{text}\u200b") == key


@given(st.text("aAbB019._ -\u200b"), st.text("aAbB019._ -\u200b"))
def test_twins_are_twins_in_either_order(a, b):
    groups = twin_groups([a, b])
    assert {frozenset(g) for g in groups} == {frozenset(g) for g in twin_groups([b, a])}
    assert bool(groups) == (a != b and twin_key(a) == twin_key(b))


@given(st.text(st.characters(max_codepoint=126, min_codepoint=32)))
def test_the_fast_way_of_ascii_is_the_slow_one(text):
    assert twin_key(text) == twin_key(text + "\u200b")


@given(st.integers(0, 10**30), st.integers(0, 4), st.integers(0, 4))
def test_numbers_are_the_same_however_they_are_padded(number, zeros, decimals):
    padded = "0" * zeros + str(number) + ("." + "0" * decimals if decimals else "")
    assert number_key(padded) == str(number)


@pytest.mark.parametrize("text", ["1e5", "1_0", "0x1", "nan", "1.2.3", "٣", ".", "-", "1,0"])
def test_names_are_no_numbers(text):
    assert number_key(text) is None


def test_numbers_that_differ_in_a_last_digit_are_no_twins():
    assert twin_groups(["12345678901234567", "12345678901234568", "1.50", "1.05"]) == []


def test_what_cannot_be_seen_is_written_out():
    assert visible("P1") == "'P1'"
    assert "\\u200b" in visible("P1\u200b")


@given(st.sampled_from(MARKERS), st.sampled_from(["", " ", "\u200b", "\xa0"]), st.booleans())
def test_markers_are_missing_however_they_are_written(marker, blank, upper):
    text = blank + (marker.upper() if upper else marker.lower()) + blank
    assert Missing()(text)


@given(st.text())
def test_nothing_else_is_missing(text):
    known = {marker.casefold() for marker in MARKERS}
    assert Missing()(text) == (plain(text).casefold() in known)


def test_a_cohort_has_markers_of_its_own():
    assert Missing(["Unbekannt"])("unbekannt")
    assert not Missing()("unbekannt")
    assert not Missing()("none")
