"""What differs between two configurations, or the parameters of two stages, key by key."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from slidemill.artifacts.digest import canonical_json


class Absent:
    """The value of a key that is not there."""


ABSENT = Absent()


@dataclass(frozen=True)
class Change:
    """A value that differs.

    Attributes:
        path: Keys, and positions in lists, that lead to it.
        old: Its value; `ABSENT` where there was none.
        new: What it has become; `ABSENT` where it is gone.
    """

    path: tuple[str | int, ...]
    old: object
    new: object

    @property
    def key(self) -> str:
        """The path as messages about configurations write it: `pretrain.runs.0.epochs`."""
        return ".".join(map(str, self.path))

    def as_json(self) -> dict[str, object]:
        """The change as plain values; a side that is absent is left out."""
        sides = {"old": self.old, "new": self.new}
        return {"key": self.key} | {k: v for k, v in sides.items() if v is not ABSENT}


def changes(old: object, new: object, path: tuple[str | int, ...] = ()) -> Iterator[Change]:
    """Every value that differs between two JSON values.

    Mappings, and lists that hold mappings, are gone into; other lists are values, since what comes
    after what is their meaning.

    Args:
        old: The one.
        new: The other.
        path: Where both are.
    """
    pairs = _inside(old, new)
    if pairs is None:
        if not _same(old, new):
            yield Change(path, old, new)
        return
    for key, one, other in pairs:
        yield from changes(one, other, (*path, key))


def _inside(old: object, new: object) -> list[tuple[str | int, Any, Any]] | None:
    """Values at the same place of two containers; None if they are compared as a whole."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        return [(key, old.get(key, ABSENT), new.get(key, ABSENT)) for key in keys]
    if _is_list(old) and _is_list(new) and any(isinstance(one, Mapping) for one in [*old, *new]):
        length = max(len(old), len(new))
        one, other = ([*side, *[ABSENT] * (length - len(side))] for side in (old, new))
        return list(zip(range(length), one, other, strict=True))
    return None


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _same(old: object, new: object) -> bool:
    if old is ABSENT or new is ABSENT:
        return old is new
    return canonical_json(old) == canonical_json(new)
