"""A real SLURM of one node for tests: munged, slurmctld and slurmd with folders, keys and ports of their own, so that
several may run side by side and none touches the machine's."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0,sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
JobRequeue=1
KillWait=10
MinJobAge=3600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory=4000
PartitionName=main Nodes={host} Default=YES
PartitionName=low Nodes={host} PriorityTier=1 GraceTime=20 PreemptMode=REQUEUE
PartitionName=high Nodes={host} PriorityTier=10
"""


class Cluster:
    """Talks to the running cluster as a user does: by its commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}

    def call(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def queue(self) -> dict[str, str]:
        """State of every task that has not ended, by ``JOB_INDEX`` or ``JOB``."""
        lines = self.call("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def state(self, task: str) -> str:
        """State of a task, also of one that has ended."""
        return self.call("squeue", "--noheader", "--array", "--states=all", f"--jobs={task}", "--format=%T")

    def job_field(self, task: str, field: str) -> str:
        """A field of `scontrol show job`, such as Restarts."""
        return next(
            word.partition("=")[2]
            for word in self.call("scontrol", "show", "job", task).split()
            if word.startswith(f"{field}=")
        )

    def wait(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}; queue: {self.queue()}"
            time.sleep(0.2)

    def processes(self) -> list[int]:
        """Every process of this cluster: daemons, steps, and what jobs started."""
        mark, found = str(self.folder).encode(), []
        for process in Path("/proc").glob("[0-9]*"):
            if int(process.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                environment = (process / "environ").read_bytes()
                if b"SLURM_CONF=" + mark in environment or mark in (process / "cmdline").read_bytes():
                    found.append(int(process.name))
        return found


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Skipped where it cannot be; a failure instead where PIPELINE_REQUIRE_SLURM is set, as in CI."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch", "srun") if not _which(name)]
    if missing or os.geteuid() != 0:
        reason = f"not installed: {', '.join(missing)}" if missing else "SLURM's daemons must be started by root"
        if os.environ.get("PIPELINE_REQUIRE_SLURM"):
            pytest.fail(f"no real SLURM to test with: {reason}")
        pytest.skip(f"no real SLURM: {reason}")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # sockets' paths must be short
    daemons: list[subprocess.Popen[bytes]] = []
    running = Cluster(folder)
    try:
        _start(running, daemons)
        yield running
    finally:
        _stop(running, daemons)
        shutil.rmtree(folder, ignore_errors=True)


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")


def _start(cluster: Cluster, daemons: list[subprocess.Popen[bytes]]) -> None:
    folder, host = cluster.folder, socket.gethostname().partition(".")[0]
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(mode=0o755)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    controller_port, node_port = _free_ports(2)
    (folder / "slurm.conf").write_text(
        CONFIG.format(host=host, folder=folder, controller_port=controller_port, node_port=node_port, cpus=2)
    )
    munge = [f"--{name}-file={folder / 'munge' / name}" for name in ("key", "pid", "log", "seed")]
    for command in (
        ["munged", "--foreground", "--force", f"--socket={folder}/munge/socket", *munge],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", host],
    ):
        with (folder / f"{command[0]}.out").open("wb") as output:
            program = _which(command[0])
            assert program is not None
            daemon = subprocess.Popen(
                [program, *command[1:]],
                env=cluster.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            daemons.append(daemon)
        time.sleep(0.3)
    deadline = time.monotonic() + 60
    while "idle" not in _node_state(cluster):
        logs = "".join(path.read_text(errors="replace")[-2000:] for path in folder.glob("slurm*.*") if path.is_file())
        assert time.monotonic() < deadline, f"the cluster did not come up: {logs}"
        time.sleep(0.2)


def _node_state(cluster: Cluster) -> str:
    command = ["sinfo", "--noheader", "--format=%T", "--partition=main"]
    return subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=60).stdout


def _stop(cluster: Cluster, daemons: list[subprocess.Popen[bytes]]) -> None:
    """Cancel what runs, end the daemons, and then whatever of theirs is still there."""
    with contextlib.suppress(AssertionError, subprocess.TimeoutExpired, OSError):
        cluster.call("scancel", "--full", "--signal=KILL", "--user=root")
        cluster.call("scancel", "--user=root")
        cluster.wait(lambda: not cluster.queue(), 20, "cancelled jobs to end")
    for daemon in reversed(daemons):
        daemon.terminate()
    for daemon in reversed(daemons):
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(timeout=15)
    for _ in range(3):
        for pid in cluster.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    for daemon in daemons:
        daemon.wait(timeout=15)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
