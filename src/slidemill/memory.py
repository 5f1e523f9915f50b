"""Memory that runs short: how a library says it, and whether the kernel killed for it.

Read here are errors and the kernel's counters; nothing is changed.
"""

import errno
from pathlib import Path

OPENCV_NO_MEMORY = -4
"""OpenCV's code for memory that it did not get (StsNoMem)."""


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that memory was short: no fault of what was worked on."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or getattr(error, "code", None) == OPENCV_NO_MEMORY


def oom_kills(proc: Path = Path("/proc/self")) -> int:
    """Processes of this process's control group that the kernel has killed for memory, so far.

    Args:
        proc: What the kernel says of this process.

    Returns:
        The number, by control groups of both versions; 0 where the kernel does not say.
    """
    found = 0
    for line in _lines(proc / "cgroup"):
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        kind, name = ("cgroup", "memory.oom_control") if controllers else ("cgroup2", _EVENTS)
        for mount in _mounts(proc, kind, "memory" if controllers else ""):
            # Within a container the group's own folder may be what is mounted.
            for folder in (mount / group.lstrip("/"), mount):
                counts = dict(entry.split()[:2] for entry in _lines(folder / name))
                if "oom_kill" in counts:
                    found += int(counts["oom_kill"])
                    break
    return found


_EVENTS = "memory.events"


def _mounts(proc: Path, kind: str, controller: str) -> list[Path]:
    """Where control groups of a version, and of a controller, are mounted."""
    found = []
    for line in _lines(proc / "mountinfo"):
        place, _, rest = line.partition(" - ")
        file_system, _, options = rest.split(" ", 2)
        if file_system == kind and (not controller or controller in options.split(",")):
            found.append(Path(place.split(" ")[4]))
    return found


def _lines(path: Path) -> list[str]:
    """Lines of a file of the kernel's; none where there is no such file."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
