"""Stand-ins for sbatch, squeue, sacct and scancel that keep a queue in a file."""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from pipeline.sweep.config import SweepConfig
from pipeline.sweep.grid import grid
from pipeline.sweep.launch.slurm import launch
from pipeline.sweep.launch.slurm.submissions import Ledger
from pipeline.sweep.study import Planned

SBATCH = """
name = next(a for a in sys.argv if a.startswith("--job-name=")).partition("=")[2]
with open(here / "calls", "a") as stream: stream.write(json.dumps(sys.argv) + "\\n")
if (here / "refuse").exists() and (here / "refuse").read_text() in name:
    sys.exit("sbatch: error: Batch job submission failed:\\n  Invalid account")
job = 1 + sum(1 for _ in open(here / "calls")) + 100
array = next((a for a in sys.argv if a.startswith("--array=0-")), None)
indices = range(int(array.removeprefix("--array=0-").partition("%")[0]) + 1) if array else ["N/A"]
with open(here / "queue", "a") as stream:
    for index in indices: stream.write(f"{job}|{index}|{name}|PENDING|Priority\\n")
if (here / "lose_answer").exists():
    sys.exit("sbatch: error: Socket timed out on send/recv operation")
print(job)
"""
SQUEUE = """
if (here / "down").exists(): sys.exit("slurm_load_jobs error: Unable to contact slurm controller")
names = next(a for a in sys.argv if a.startswith("--name=")).partition("=")[2].split(",")
for line in (here / "queue").read_text().splitlines():
    if line.split("|")[2] in names: print(line)
"""
SACCT = """
if not (here / "accounts").exists(): sys.exit("Slurm accounting storage is disabled")
print((here / "accounts").read_text(), end="")
"""
SCANCEL = """
with open(here / "calls", "a") as stream: stream.write(json.dumps(sys.argv) + "\\n")
kept = [l for l in (here / "queue").read_text().splitlines() if l.split("|")[0] != sys.argv[-1] or "|PENDING|" not in l]
(here / "queue").write_text("".join(l + "\\n" for l in kept))
"""


class FakeSlurm:
    """What the stand-ins were called with, and the queue they keep."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def calls(self, program: str) -> list[list[str]]:
        lines = (self.folder / "calls").read_text().splitlines() if (self.folder / "calls").exists() else []
        return [argv[1:] for argv in map(json.loads, lines) if Path(argv[0]).name == program]

    def arrays(self) -> list[list[str]]:
        return [argv for argv in self.calls("sbatch") if any(word.startswith("--array") for word in argv)]

    def forget(self, task: str) -> None:
        """Drop lines from the queue by how they begin, JOB|INDEX|."""
        lines = (self.folder / "queue").read_text().splitlines(keepends=True)
        (self.folder / "queue").write_text("".join(line for line in lines if not line.startswith(task)))

    def set(self, old: str, new: str) -> None:
        """Replace text in the queue, whose lines are JOB|INDEX|NAME|STATE|REASON."""
        path = self.folder / "queue"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))


def install(folder: Path) -> FakeSlurm:
    """The programs, in a folder for the PATH."""
    folder.mkdir()
    (folder / "queue").touch()
    for name, body in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL), ("sacct", SACCT)):
        head = f"#!{sys.executable} -S\nimport json, pathlib, sys\nhere = pathlib.Path({str(folder)!r})\n"
        (folder / name).write_text(head + body)
        (folder / name).chmod(0o755)
    return FakeSlurm(folder)


def profile_file(tmp_path: Path, **settings: Any) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump({"max_time": "2h"} | settings, sort_keys=False))
    return path


def ledger(config: SweepConfig) -> Ledger:
    return Ledger(Path(config.out) / config.study / "slurm" / "submissions.jsonl")


def submit(config: SweepConfig) -> int:
    return launch.submit(config, Planned(tuple(grid(config))))


def preview(config: SweepConfig) -> int:
    return launch.dry_run(config, Planned(tuple(grid(config))))
