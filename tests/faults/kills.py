"""Kill stages at random moments on a real Slurm, and see that nothing is lost.

    python tests/faults/kills.py --kills 50

Each round is a whole run of a small cohort in a new folder. While it lasts, processes of its jobs
are killed (SIGKILL) at random moments: the command of a job, or one of the processes in which it
works on slides. Slurm and the workflow's retries have to finish the run; where retries are used up,
the run is started again, as a user would. After each round every artifact verifies, the results
equal those of an undisturbed run, and no file that was there at a kill has been written again.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cluster.scenario import Driver, Scenario
from cluster.slurm import alone, install, running

STAGES = ("cohort", "tissue", "tiles", "features")


@dataclass
class Tally:
    """What happened.

    Attributes:
        kills: Processes killed, by stage and by what they were.
        rounds: Whole runs.
        restarts: Runs that had to be started again, their retries being used up.
        seconds: Wall time.
    """

    kills: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    restarts: int = 0
    seconds: float = 0.0


def victims(folder: Path) -> list[tuple[int, str]]:
    """Processes of `slidemill` that work for a project, and what they are."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            place = [n for n, word in enumerate(words[:2]) if word.endswith("/slidemill")]
            if not place or (process / "cwd").resolve() != folder.resolve():
                continue
            stage = words[place[0] + 1]
            parent = (process / "stat").read_text().rsplit(")", 1)[1].split()[1]
            above = Path(f"/proc/{parent}/cmdline").read_bytes()
            who = "worker" if b"/slidemill\0" in above else "job"
            if stage in STAGES:
                found.append((int(process.name), f"{stage}, {who}"))
    return found


def disturb(scenario: Scenario, driver: Driver, wanted: int, draw: random.Random) -> Counter[str]:
    """Kill processes of a run at random moments, as long as it lasts or until there are enough."""
    killed: Counter[str] = Counter()
    while driver.process.poll() is None and killed.total() < wanted:
        time.sleep(draw.uniform(0.1, 1.5))
        there = victims(scenario.folder)
        if not there:
            continue
        scenario.keep()
        process, what = draw.choice(there)
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
            killed[what] += 1
    return killed


def kill_stages(
    folder: Path, cohort: Path, undisturbed: dict[str, str], kills: int, seed: int = 0
) -> Tally:
    """Run rounds until so many processes have been killed.

    Args:
        folder: Where projects are made.
        cohort: The slides.
        undisturbed: Content of the results of an undisturbed run.
        kills: How many processes to kill.
        seed: Of moments and victims.
    """
    draw, tally, started = random.Random(seed), Tally(), time.monotonic()
    while tally.kills.total() < kills:
        scenario = Scenario(folder / f"round-{tally.rounds}")
        scenario.configure(cohort)
        driver = scenario.start()
        tally.kills += disturb(scenario, driver, kills - tally.kills.total(), draw)
        driver.wait()
        while driver.process.returncode != 0:
            tally.restarts += 1
            driver = scenario.start()
            driver.wait()
        scenario.assert_whole(undisturbed)
        tally.rounds += 1
        sys.stderr.write(f"round {tally.rounds}: {tally.kills.total()} kills\n")
    tally.seconds = time.monotonic() - started
    return tally


def main() -> None:
    """Run the script."""
    from slidemill.demo import write_demo

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    with alone(), tempfile.TemporaryDirectory(prefix="slidemill-kills-") as place:
        reason = install()
        if reason:
            raise SystemExit(f"no Slurm: {reason}")
        folder = Path(place)
        cohort = folder / "slides"
        write_demo(cohort, patients=6, size_px=(1536, 1152), jobs=2)
        calm = Scenario(folder / "undisturbed")
        calm.configure(cohort)
        calm.run(slurm=False)
        with running(folder / "slurm"):
            tally = kill_stages(folder, cohort, calm.content(), chosen.kills, chosen.seed)
    if chosen.json:
        print(json.dumps(asdict(tally)))
        return
    for what, count in sorted(tally.kills.items()):
        print(f"{what}: {count}")
    print(
        f"{tally.kills.total()} kills in {tally.rounds} runs, {tally.restarts} of them started "
        f"again by hand; {tally.seconds:.0f} s; all results equal those of an undisturbed run"
    )


if __name__ == "__main__":
    main()
