"""Which stage of one run is which of another, and why their digests differ."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from slidemill.runs.config_diff import Change, changes
from slidemill.runs.record import StageRecord


@dataclass(frozen=True)
class StageDiff:
    """A stage of both runs, or of one.

    Attributes:
        old: Its identity in the old run; None if it has none.
        new: Its identity in the new one.
        changes: What of it differs by itself: parameters, versions.
        reads: Folders that only one of them reads.
    """

    old: StageRecord | None
    new: StageRecord | None
    changes: tuple[Change, ...] = ()
    reads: tuple[str, ...] = ()

    @property
    def one(self) -> StageRecord:
        """The new one, or the old one where there is no new one."""
        found = self.new or self.old
        assert found is not None
        return found

    @property
    def same(self) -> bool:
        """Whether both have the same digest."""
        return bool(self.old and self.new and self.old.digest == self.new.digest)


def pair_stages(old: Sequence[StageRecord], new: Sequence[StageRecord]) -> Iterator[StageDiff]:
    """Say which stage of one run is which of the other, in the order of the new one.

    By digest; of those left over by label; and where a stage has one left on either side, these.
    Stages that only the old run has come last.
    """
    left, right = list(old), list(new)
    pairs: dict[tuple[str, str], StageRecord] = {}

    def match(name: Any) -> None:  # noqa: ANN401 - a function of StageRecord
        for one in list(right):
            found = next((other for other in left if name(other) == name(one)), None)
            if found is not None:
                pairs[one.key] = found
                left.remove(found)
                right.remove(one)

    match(lambda stage: (stage.stage, stage.digest))
    match(lambda stage: (stage.stage, stage.label))
    alone = Counter(one.stage for one in left), Counter(one.stage for one in right)
    match(lambda one: one.stage if alone[0][one.stage] == alone[1][one.stage] == 1 else id(one))
    for stage in new:
        found = pairs.get(stage.key)
        yield StageDiff(None, stage) if found is None else _why(found, stage)
    yield from (StageDiff(stage, None) for stage in left)


def _why(old: StageRecord, new: StageRecord) -> StageDiff:
    """A stage of both runs, and why its digest is another."""
    if old.digest == new.digest:
        return StageDiff(old, new)
    own = list(changes(old.parameters, new.parameters))
    for name in ("algorithm_version", "artifact"):
        own += changes(getattr(old, name), getattr(new, name), (name,))
    # The end of a folder's name is its digest, and says whether the results are the same.
    before, after = ({above.rpartition("-")[2] for above in one.upstream} for one in (old, new))
    reads = [
        above
        for above in (*new.upstream, *old.upstream)
        if above.rpartition("-")[2] in before ^ after
    ]
    return StageDiff(old, new, tuple(own), tuple(reads))
