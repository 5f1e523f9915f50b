"""A real Slurm on this machine: a CPU node and a node of two stand-in GPUs.

Everything of it (key, sockets, configuration, state, logs) lies in one folder, its ports are free
ones, and it needs no systemd. Only a link from Slurm's default place to its configuration lies
outside, since Snakemake's plugin takes SLURM_CONF out of the environment of its steps; where a
configuration is there already, there is a Slurm that must not be disturbed, and no other is
started. It needs root and Debian's packages `slurm-wlm` and `munge`; `install` fetches them. There
is one cluster at a time on a machine, whichever process asks: `alone` waits for its turn.
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
PACKAGES = ("slurm-wlm", "munge")
GPUS = [
    name for name in ("/dev/tty1", "/dev/tty2", "/dev/null", "/dev/zero") if Path(name).exists()
]
"""Devices of which the first two stand in for GPUs: Slurm schedules and tells them apart like GPUs,
and nothing opens them. Containers may have no terminals."""
IDLE = {"cpu1": "idle", "gpu1": "idle"}
DEFAULT_PLACE = Path("/etc/slurm/slurm.conf")
"""Where Slurm's commands look without SLURM_CONF."""
PATIENCE = 60.0
"""Seconds within which daemons have to answer."""

CONFIGURATION = """\
ClusterName=slidemill
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
MpiDefault=none
ReturnToService=2
MailProg=/bin/true
SchedulerParameters=sched_interval=2,batch_sched_delay=0
KillWait=5
OverTimeLimit=0
NodeName=cpu1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} RealMemory={memory}
NodeName=gpu1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} \
RealMemory={memory} Gres=gpu:{gpus}
PartitionName=cpu Nodes=cpu1 Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=gpu1 MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Why there can be no Slurm here; empty where there can."""
    if os.geteuid() != 0:
        return "starting Slurm's daemons needs root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed: apt-get install {' '.join(PACKAGES)}"
    if DEFAULT_PLACE.exists() and not _is_left_over():
        return f"{DEFAULT_PLACE} is there: this machine has a Slurm of its own"
    return ""


def _is_left_over() -> bool:
    """Whether the configuration in Slurm's default place is a dead cluster's of ours."""
    if not DEFAULT_PLACE.is_symlink() or "ClusterName=slidemill\n" not in DEFAULT_PLACE.read_text():
        return False
    done = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, check=False)
    return "is UP" not in done.stdout


def install() -> str:
    """Install Slurm from Debian's packages where it is missing; why that was not possible."""
    if os.geteuid() != 0 or not why_not():
        return why_not()
    if shutil.which("apt-get") is None:
        return "this system has no apt-get to install Slurm with"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(
            ["apt-get", "-qq", *arguments], env=environment, capture_output=True, text=True
        )
        if done.returncode != 0:
            return f"apt-get {arguments[0]} failed: {done.stderr.strip().splitlines()[-1:]}"
    return why_not()


@dataclass
class Cluster:
    """A running cluster of two nodes, `cpu1` and `gpu1`, each a partition of its own.

    Attributes:
        folder: Where all of it lies.
        cpus: CPUs that each node says it has.
        memory: Megabytes of memory that each node says it has.
    """

    folder: Path
    cpus: int = 16
    memory: int = 64000
    _daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which Slurm's commands find this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        """Write the configuration, start every daemon, wait until both nodes are idle."""
        for name in ("state", "spool-cpu1", "spool-gpu1"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        self.folder.chmod(0o755)
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                host=socket.gethostname(),
                folder=self.folder,
                ports=_free_ports(3),
                cpus=self.cpus,
                memory=self.memory,
                gpus=2,
            )
        )
        devices = [f"NodeName=gpu1 Name=gpu File={name}\n" for name in GPUS[:2]]
        (self.folder / "gres.conf").write_text("".join(devices))
        munge = [f"--{name}={self.folder}/munge.{name}" for name in ("socket",)]
        self._run_daemon(
            "munged", "--foreground", "--force", *munge, f"--key-file={key}",
            f"--pid-file={self.folder}/munge.pid", f"--seed-file={self.folder}/munge.seed",
            f"--log-file={self.folder}/munge.log",
        )  # fmt: skip
        _wait(lambda: (self.folder / "munge.socket").exists(), "munged")
        self.start_controller()
        for node in ("cpu1", "gpu1"):
            self.start_node(node)
        # One that is there was left by a cluster whose process was killed.
        DEFAULT_PLACE.unlink(missing_ok=True)
        DEFAULT_PLACE.symlink_to(self.folder / "slurm.conf")
        _wait(lambda: self.states() == IDLE, "idle nodes")

    def start_controller(self) -> None:
        """Start slurmctld; it goes on from the state that it kept."""
        self._run_daemon("slurmctld", "-D")
        _wait(lambda: self._answers("scontrol", "ping"), "slurmctld")

    def stop_controller(self) -> None:
        """End slurmctld as an administrator's restart does; it keeps its state."""
        self._end("slurmctld", signal.SIGTERM)

    def start_node(self, node: str) -> None:
        """Start the slurmd of a node."""
        self._run_daemon("slurmd", "-D", "-N", node, name=f"slurmd-{node}")

    def kill_node(self, node: str) -> None:
        """End the slurmd of a node as a crash would."""
        self._end(f"slurmd-{node}", signal.SIGKILL)

    def set_node(self, node: str, state: str) -> None:
        """Set a node `down` or `resume` it, as an administrator would."""
        self.command("scontrol", "update", f"nodename={node}", f"state={state}", "reason=test")

    def states(self) -> dict[str, str]:
        """State of each node in Slurm's words."""
        lines = self.command("sinfo", "--noheader", "--Node", "--format=%N %t").split("\n")
        return dict(line.split() for line in lines if line)

    def jobs(self, states: str = "PENDING,RUNNING") -> list[dict[str, str]]:
        """Jobs in given states, as Slurm tells of them."""
        names = ("id", "name", "state", "partition", "gres", "comment")
        form = "--format=%i|%j|%T|%P|%b|%k"
        lines = self.command("squeue", "--noheader", f"--states={states}", form).split("\n")
        return [dict(zip(names, line.split("|"), strict=True)) for line in lines if line]

    def gpus(self, job: str) -> str:
        """GPUs that a job asked for, such as `gres:gpu:1`; empty without."""
        told = self.command("scontrol", "show", "job", "--oneliner", job)
        words = dict(word.split("=", 1) for word in told.split() if "=" in word)
        return words.get("TresPerJob", words.get("TresPerNode", ""))

    def cancel_all(self) -> None:
        """Cancel every job and wait until none is left."""
        self.command("scancel", "--user=root")
        _wait(lambda: not self.jobs("PENDING,RUNNING,COMPLETING"), "the end of all jobs")

    def command(self, *arguments: str) -> str:
        """Run one of Slurm's commands and return what it printed."""
        done = subprocess.run(
            arguments, env=os.environ | self.environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def stop(self) -> None:
        """End every job and every daemon."""
        with suppress(FileNotFoundError):
            if DEFAULT_PLACE.readlink() == self.folder / "slurm.conf":
                DEFAULT_PLACE.unlink()
        with suppress(subprocess.CalledProcessError, TimeoutError):
            self.cancel_all()
        for name in reversed(self._daemons.copy()):
            self._end(name, signal.SIGTERM)

    def _answers(self, *arguments: str) -> bool:
        try:
            self.command(*arguments)
        except subprocess.CalledProcessError:
            return False
        return True

    def _run_daemon(self, *arguments: str, name: str = "") -> None:
        name = name or arguments[0]
        with (self.folder / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                arguments,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _end(self, name: str, how: signal.Signals) -> None:
        daemon = self._daemons.pop(name)
        daemon.send_signal(how)
        try:
            daemon.wait(timeout=20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


@contextmanager
def alone() -> Iterator[None]:
    """A machine's turn to have a cluster; others wait until the block is left."""
    with (Path(tempfile.gettempdir()) / "slidemill-slurm.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def running(folder: Path, **sizes: int) -> Iterator[Cluster]:
    """A cluster that is there for the length of a block."""
    cluster = Cluster(folder, **sizes)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _wait(ready: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {PATIENCE:.0f} s for {what}; see the logs of the cluster")
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
