"""How far a features job is: a bar for people, nothing for logs (a line a slide is written there).

Knows numbers of tiles only.
"""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class TileProgress:
    """Tiles done, tiles a second, and the time that is left, where there is a terminal."""

    def __init__(self, title: str, tiles: int) -> None:
        """Begin.

        Args:
            title: What is being done.
            tiles: Tiles that there are to do.
        """
        self._title, self._tiles = title, tiles
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._tiles, speed="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def is_shown(self) -> bool:
        """Whether there is a terminal that shows it."""
        return self._bar is not None

    def add(self, tiles: int) -> None:
        """Say that so many more tiles are done."""
        if self._bar is None or self._task is None:
            return
        self._bar.advance(self._task, tiles)
        speed = self._bar.tasks[0].speed or 0.0
        self._bar.update(self._task, speed=f"{speed:,.0f} tiles/s")
