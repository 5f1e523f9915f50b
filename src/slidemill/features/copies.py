"""Copies of slides in the job's scratch folder, made ahead while the encoder works.

One thread copies slides in the order in which they will be read; see `slidemill.slides.staging`.
There are never more than `COPIES` of them: a copy is begun when an earlier one has been removed.
"""

import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Queue
from typing import Any

from slidemill.slides.staging import copy_slide

COPIES = 3
"""The slide that is read and the two that come next."""


class Copies:
    """Copies of the slides of a bucket."""

    def __init__(self, folder: Path, slides: Sequence[Mapping[str, Any]], seconds: float) -> None:
        """Begin to copy.

        Args:
            folder: Where to.
            slides: Rows of the cohort's table, in the order in which they will be read.
            seconds: Wall time after which a copy is given up, and its slide is read in place.
        """
        self._folder, self._slides, self._seconds = folder, slides, seconds
        self._room = threading.Semaphore(COPIES)
        self._made: Queue[Path | BaseException | None] = Queue()
        self._since: float | None = None
        self._is_stuck = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="slide-copier", daemon=True)
        self._thread.start()

    def is_ready(self) -> bool:
        """Whether the next slide can be taken: it is copied, or has to be read in place."""
        if not self._made.empty():
            return True
        since = self._since
        # A server that does not answer holds the thread for ever, and no copy follows.
        if since is not None and time.monotonic() - since > 2 * self._seconds:
            self._is_stuck = True
        return self._is_stuck

    def take(self) -> Path | None:
        """The copy of the next slide, which is ready; None where it is to be read in place.

        Raises:
            Exception: What went wrong with the thread and is no fault of a slide.
        """
        if self._is_stuck:
            return None
        made = self._made.get()
        if isinstance(made, BaseException):
            raise made
        return made

    def remove(self, copy: Path) -> None:
        """Remove a copy that is no longer read."""
        shutil.rmtree(copy.parent, ignore_errors=True)
        self._room.release()

    def stop(self) -> None:
        """End the copy that is being made, and begin no further one."""
        self._stopped.set()
        self._room.release()
        if not self._is_stuck:
            self._thread.join()

    def _may_go_on(self) -> None:
        """Raises OSError if a copy takes too long, or is no longer wanted."""
        if self._stopped.is_set():
            raise InterruptedError("the job ends")
        if self._since is not None and time.monotonic() - self._since > self._seconds:
            raise TimeoutError("copying takes longer than cohort.slide_seconds")

    def _serve(self) -> None:
        try:
            for facts in self._slides:
                self._room.acquire()
                if self._stopped.is_set():
                    return
                self._since = time.monotonic()
                folder = self._folder / str(facts["slide_id"])
                seen = str(facts["fingerprint"])
                copy = copy_slide(Path(facts["path"]), seen, folder, self._may_go_on)
                self._since = None
                if copy is None:
                    self._room.release()
                self._made.put(copy)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that takes
            self._made.put(error)
