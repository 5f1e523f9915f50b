"""How far a training is: a bar for people, lines for logs, and TensorBoard's events on request.

Writes to the log, the terminal and, if it is given one, the folder of events; reads nothing.
"""

import logging
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from slidemill.errors import ConfigError, Problem

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_SECONDS = 10.0
"""Time between two lines of the log."""

log = logging.getLogger(__name__)


class TrainingProgress:
    """Steps done, the loss and tokens a second.

    Args:
        title: What is trained.
        events: Folder of TensorBoard's events; None for none.
        shown: Whether this process shows anything.
        done: Steps that are done already: events of later ones, of a run that was killed or of
            another one, are told to be void.

    Raises:
        ConfigError: If events are wanted and TensorBoard is not installed.
    """

    def __init__(self, title: str, events: Path | None, *, shown: bool, done: int = 0) -> None:
        self._title, self._shown = title, shown
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last = time.monotonic()
        self._writer: Any = None if events is None else _writer(events, done)

    def __enter__(self) -> Self:
        if self._shown and sys.stderr.isatty():
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
                TextColumn("{task.fields[facts]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=None, facts="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._writer is not None:
            self._writer.close()

    def update(self, step: int, steps: int, row: dict[str, float]) -> None:
        """Say that a step is done, and what it showed."""
        if self._writer is not None:
            for name, value in row.items():
                if value == value:  # not of what the method does not have
                    self._writer.add_scalar(name, value, step)
        facts = f"loss {row['loss']:.4f}, {row['tokens_per_s']:,.0f} tokens/s"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, total=steps, facts=facts)
        elif self._shown and (step == steps or time.monotonic() - self._last > LINE_SECONDS):
            self._last = time.monotonic()
            log.info("pretrain %s: step %d/%d, %s", self._title, step, steps, facts)


def _writer(events: Path, done: int) -> Any:  # noqa: ANN401 - an optional package's type
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        problem = Problem(
            "pretrain.tensorboard",
            "TensorBoard is not installed",
            "Install it: pip install 'slidemill[tensorboard]', or leave the key out",
        )
        raise ConfigError("of pretraining", [problem]) from None
    return SummaryWriter(str(events), purge_step=done + 1)
