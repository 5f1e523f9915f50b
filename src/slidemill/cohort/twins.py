"""Twins: texts that differ and yet are, as far as anyone can see, meant to be the same.

`1` beside `1.0` and `007` beside `7` (a spreadsheet was there), `P1` beside `p1`, letters that are
composed in one row and not in another, and characters that cannot be seen. Twins of patients part
a patient in two, one of them in training and one in the test; twins of classes make a class more.
"""

import re
import unicodedata
from collections.abc import Iterable

_NUMBER = re.compile(r"([+-]?)([0-9]+)(?:\.([0-9]*))?")
_BEGINS = frozenset("+-0123456789")
_UNSEEN = frozenset({"Cc", "Cf"})
"""Unicode categories of what has no width: controls, joiners, marks of direction."""


def twin_key(text: str) -> str:
    """What twins have in common; the key of a key is itself."""
    if text.isascii() and text.isprintable() and "  " not in text:
        folded = text.strip().lower()
    else:
        folded = _folded(text)
    # A cohort has a hundred thousand ids: only what begins as a number is looked at as one.
    return (number_key(folded) or folded) if folded[:1] in _BEGINS else folded


def number_key(text: str) -> str | None:
    """A decimal number in its shortest form, exactly; None for what is none.

    Forms with an exponent are names: `1e5` is more often a code than a hundred thousand.
    """
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    sign, whole, part = found.groups()
    whole, part = whole.lstrip("0") or "0", (part or "").rstrip("0")
    short = f"{whole}.{part}" if part else whole
    return f"-{short}" if sign == "-" and short != "0" else short


def plain(text: str) -> str:
    """A text without characters that cannot be seen, and with single blanks within it only."""
    # Line ends and tabs are controls, but part words.
    words = " ".join(text.split())
    kept = (char for char in words if unicodedata.category(char) not in _UNSEEN)
    return " ".join("".join(kept).split())


def visible(text: str) -> str:
    """A text for messages in which twins can be told apart by eye."""
    return repr(text) if text.isascii() else f"{plain(text)!r} = {text!a}"


def twin_groups(texts: Iterable[str]) -> list[list[str]]:
    """Texts that are twins of each other, each text once, all in the order of the first."""
    found: dict[str, list[str]] = {}
    for text in dict.fromkeys(texts):
        found.setdefault(twin_key(text), []).append(text)
    return [group for group in found.values() if len(group) > 1]


def _folded(text: str) -> str:
    """Compatible, caseless form; folding and composing undo each other for a few letters."""
    before = None
    while text != before:
        before = text
        text = plain(unicodedata.normalize("NFKC", text.casefold()))
    return text
