"""`pipeline sweep`: plan a study, skip what is finished, and hand the rest to a launcher; `sweep status`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import RunConfig, SweepConfig
from pipeline.errors import RequestError
from pipeline.recipes import parse
from pipeline.run.directory import RunDir
from pipeline.sweep.grid import grid

if TYPE_CHECKING:
    from pipeline.sweep.rounds import Planned


def main(argv: Sequence[str]) -> int:
    """`pipeline sweep`, and `pipeline sweep status STUDY`. Each launcher is imported only where it is asked for."""
    if argv and argv[0] == "status":
        from pipeline.sweep import status

        return status.main(argv[1:])
    config, dry_run = parse("sweep", argv)
    if config.launcher == "local" and config.profile:
        raise RequestError("--profile describes a cluster: give --launcher slurm with it")
    if config.plan == "adaptive":
        return _adaptive(config, dry_run)
    if config.budget:
        raise RequestError("--budget is for --plan adaptive: a grid makes all its runs")
    runs = grid(config)
    if config.data.write_through and len(runs) > 1:
        raise RequestError("--data.write_through is for one run: write with train, and sweep with --data FOLDER")
    if config.launcher == "local":
        return _here(config, runs, dry_run)
    from pipeline.sweep.launch.slurm import launch

    return launch.dry_run(config, runs) if dry_run else launch.launch(config, runs)


def _here(config: SweepConfig, runs: list[RunConfig], dry_run: bool) -> int:
    finished = {run.run_name for run in runs if RunDir(run.run_dir).result() is not None}
    pending = [run for run in runs if run.run_name not in finished]
    print(f"study {Path(config.out) / config.study}: {len(runs)} runs, {len(finished)} finished already", flush=True)
    if dry_run:
        for run in runs:
            print(f"  {run.run_name}  {'finished' if run.run_name in finished else 'to run'}")
        return 0
    from pipeline.sweep.launch.local import run_study

    failures = run_study(config, pending)
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    if failures:
        print(f"{len(failures)} of {len(runs)} runs failed; the same command tries them again", file=sys.stderr)
    return 1 if failures else 0


def _adaptive(config: SweepConfig, dry_run: bool) -> int:
    """Round after round on this machine; through SLURM the next one, and a job that follows it with the one after."""
    from pipeline.sweep import rounds

    rounds.check(config)
    if config.data.write_through:
        raise RequestError("--data.write_through is for one run: write with train, and sweep with --data FOLDER")
    while True:
        planned = rounds.plan(config)
        print(planned.finding, flush=True)
        if dry_run and config.launcher == "local":
            for entry in (planned.entry or {}).get("runs", ()):
                print(
                    f"  {entry['param']} width {entry['width']} lr {2 ** entry['x']:.3g} seed {entry['seed']}: {entry['why']}"
                )
            return 0
        if not planned.runs:
            return 0
        if config.launcher == "slurm":
            return _adaptive_through_slurm(config, planned, dry_run)
        rounds.record(config, planned)
        if code := _here(config, list(planned.runs), dry_run):
            return code


def _adaptive_through_slurm(config: SweepConfig, planned: "Planned", dry_run: bool) -> int:
    from pipeline.sweep import rounds
    from pipeline.sweep.launch.slurm import launch

    runs = list(planned.runs)
    if dry_run:
        return launch.dry_run(config, runs)
    if (
        planned.entry is None and "SLURM_JOB_ID" in os.environ
    ):  # the job after the round's: no run is waited for any more
        print("runs of this round failed: the same command on the login node tries them again", file=sys.stderr)
        return 1
    rounds.record(config, planned)
    return launch.launch(config, runs)
