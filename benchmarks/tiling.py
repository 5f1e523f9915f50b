r"""Tissue and tiles of a 40,000 x 30,000 px slide, side by side with other tools.

Builds the slide out of real tissue, runs every tool in processes of its own, in turns, and prints
medians: seconds of work, seconds with start-up, peak memory of all of a tool's processes, tiles.
Then slidemill again with every column of quality from the tiles' own pixels.

    python benchmarks/tiling.py --section ../shared/slides/TCGA-CR-7395-01A-01-TS1.svs \
        --slide big.tif --peers peers/bin/python

`--peers` is the Python of an environment of its own: `pip install hs2p lazyslide`. Without it only
slidemill and a script of 30 lines over OpenSlide's thumbnail are compared.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tiling_slide import build

RUNS = Path(__file__).with_name("tiling_runs.py")
OURS, PEERS = ("slidemill", "slidemill_pixels", "plain"), ("hs2p", "lazyslide")


@dataclass(frozen=True)
class Run:
    """One run of one tool."""

    work_s: float
    total_s: float
    peak_mb: float
    tiles: int


def tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                waiting += [int(child) for child in task.read_text().split()]
            except OSError:
                continue
    return found


def memory_mb(pids: list[int]) -> float:
    """Proportional memory of processes: what they share is counted once."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total / 1024


def measure(python: str, tool: str, slide: Path) -> Run:
    """Run a tool once."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        process = subprocess.Popen(
            [python, str(RUNS), tool, str(slide), str(Path(folder) / "out")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        peak = [0.0]

        def watch() -> None:
            while process.poll() is None:
                peak[0] = max(peak[0], memory_mb(tree(process.pid)))
                time.sleep(0.01)

        watcher = threading.Thread(target=watch)
        # The run that is timed is not the one that is watched: reading memory maps slows it.
        if tool.endswith(":memory"):
            watcher.start()
        out, err = process.communicate()
        total = time.perf_counter() - started
        if watcher.is_alive():
            watcher.join()
    if process.returncode:
        raise SystemExit(f"{tool} failed:\n{err[-2000:]}")
    said = json.loads(out.splitlines()[-1])
    return Run(said["work_s"], total, peak[0], said["tiles"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--section", type=Path, required=True, help="slide of real tissue")
    parser.add_argument("--slide", type=Path, required=True, help="where to keep the big slide")
    parser.add_argument("--peers", help="Python of an environment with hs2p and lazyslide")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    build(arguments.slide, arguments.section)
    tools = [(sys.executable, tool) for tool in OURS]
    if arguments.peers:
        tools += [(arguments.peers, tool) for tool in PEERS]
    timed: dict[str, list[Run]] = {tool: [] for _, tool in tools}
    peaks = {}
    for python, tool in tools:
        measure(python, tool, arguments.slide)  # warms the disk's cache
        peaks[tool] = measure(python, f"{tool}:memory", arguments.slide).peak_mb
    for _ in range(arguments.repeats):
        for python, tool in tools:
            timed[tool].append(measure(python, tool, arguments.slide))
    print("| tool | work, s | with start-up, s | peak memory, MB | tiles |")
    print("|---|---|---|---|---|")
    work = {}
    for tool, runs in timed.items():
        work[tool] = statistics.median(run.work_s for run in runs)
        total = statistics.median(run.total_s for run in runs)
        print(f"| {tool} | {work[tool]:.3f} | {total:.2f} | {peaks[tool]:.0f} | {runs[0].tiles} |")
    quality = work["slidemill_pixels"] - work["slidemill"]
    tiles = timed["slidemill_pixels"][0].tiles
    print(f"\nquality from pixels: {tiles / quality:,.0f} tiles/s beyond the tissue's own time,")
    print(f"{tiles / work['slidemill_pixels']:,.0f} tiles/s of the whole of both stages")
    for tool in work:
        if not tool.startswith("slidemill"):
            print(f"slidemill's work is {work['slidemill'] / work[tool]:.2f} of {tool}'s")


if __name__ == "__main__":
    main()
