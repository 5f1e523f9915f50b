"""Words of the messages that name patients, classes or columns."""

from collections.abc import Iterable

MAX_NAMED = 5
"""So many patients or values are named in a message."""


def named(values: Iterable[str], most: int = MAX_NAMED) -> str:
    """Values for a message, quoted; a few of them where there are many.

    Args:
        values: What to name, in the order of the message.
        most: So many are named; the others are counted.
    """
    found = list(values)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(repr(value) for value in found[:most]) + more


def counted(count: int, thing: str) -> str:
    """A number and its noun, such as `1 patient` or `3 patients`."""
    return f"{count} {thing}{'' if count == 1 else 's'}"
