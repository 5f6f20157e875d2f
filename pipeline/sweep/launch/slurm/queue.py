"""SLURM's commands, the only place that calls them: argument lists in, plain values out."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ENDED = {
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY",
    "REVOKED",
}  # fmt: skip
PATIENCE = 120  # seconds that a command of SLURM may take


class SlurmError(OSError):
    """A command of SLURM failed; the message is what it said, in one line."""


@dataclass(frozen=True)
class Task:
    """A task of an array, or a job, as SLURM knows it."""

    job: str
    index: int | None
    name: str
    state: str
    reason: str

    @property
    def live(self) -> bool:
        """Whether it runs or may still run."""
        return self.state not in ENDED

    @property
    def waiting(self) -> bool:
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")

    def __str__(self) -> str:
        return self.job if self.index is None else f"{self.job}_{self.index}"


def installed() -> bool:
    return shutil.which("sbatch") is not None


def tasks(names: Sequence[str]) -> list[Task]:
    """Tasks of the jobs of these names, also those that ended minutes ago. Raises `SlurmError`."""
    if not names:
        return []
    asked = ["--noheader", "--array", "--states=all", "--format=%F|%K|%j|%T|%r"]
    output = _call(["squeue", *asked, f"--name={','.join(names)}"])
    found = []
    for line in output.splitlines():
        job, index, name, state, reason = line.split("|", 4)
        found.append(Task(job, int(index) if index.isdigit() else None, name, state, reason.strip()))
    return found


def accounted(jobs: Sequence[str]) -> list[Task]:
    """What accounting recorded of these jobs, states as in `tasks`; nothing where a cluster keeps no accounts."""
    if not jobs or shutil.which("sacct") is None:
        return []
    try:
        asked = ["--noheader", "--allocations", "--parsable2", "--format=JobID,JobName,State,ExitCode"]
        output = _call(["sacct", *asked, f"--jobs={','.join(jobs)}"])
    except SlurmError:
        return []
    found = []
    for line in output.splitlines():
        identity, name, state, code = line.split("|", 3)
        job, _, index = identity.partition("_")
        if index.isdigit() or not index:  # not the rest of an array, "12_[3-7]"
            found.append(Task(job, int(index) if index else None, name, state.split()[0], f"exit code {code}"))
    return found


def submit(argv: Sequence[str], lock: int) -> str:
    """Call sbatch; the id of the job. `lock` is held until sbatch has ended, even if this process ends before.

    Raises `SlurmError` with what sbatch said.
    """
    return _call(argv, keep_open=lock).strip().partition(";")[0]


def cancel_pending(job: str) -> None:
    """Cancel a job unless it has begun. Raises `SlurmError`."""
    _call(["scancel", "--state=PENDING", job])


def _call(argv: Sequence[str], keep_open: int | None = None) -> str:
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
            env=_environment(os.environ),
            pass_fds=() if keep_open is None else (keep_open,),
        )
    except FileNotFoundError:
        raise SlurmError(f"there is no {argv[0]} on the PATH") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{argv[0]} did not answer in {PATIENCE} s") from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise SlurmError(said or f"{argv[0]} ended with {done.returncode}")
    return done.stdout


def _environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """A job that submits jobs must not hand them its own allocation."""
    if "SLURM_JOB_ID" not in inherited:
        return dict(inherited)
    kept = {"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT"}
    return {k: v for k, v in inherited.items() if k in kept or not k.startswith(("SLURM_", "SLURMD_", "SRUN_"))}
