"""Branches of a study: runs that differ in their number of steps alone are one run until the shorter decays, so the
longest trains that part for all of them (`config.branching`)."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pipeline.config import RunConfig, run_settings, shared_steps
from pipeline.console import plural
from pipeline.run.directory import RunDir
from pipeline.sweep.grid import cost


class Branch(NamedTuple):
    """Where a run begins."""

    of: RunConfig
    """The longer run that leaves it."""
    step: int
    """After which."""


Branches = Mapping[RunConfig, Branch]
"""By the runs that begin so."""


def branches(todo: Sequence[RunConfig]) -> tuple[list[RunConfig], Branches]:
    """The same runs, told what to leave for others, and those others. None is a branch of a branch, nor of a run that
    is past its first step; what has a checkpoint goes on from that."""
    if len({run.steps for run in todo}) < 2:
        return list(todo), {}
    groups: dict[str, list[RunConfig]] = {}
    for run in todo:
        groups.setdefault(json.dumps(run_settings(run) | {"steps": None}), []).append(run)
    runs: list[RunConfig] = []
    found: dict[RunConfig, Branch] = {}
    for alike in groups.values():
        left: dict[RunConfig, dict[RunConfig, int]] = {}  # of whole runs, the longest first
        for run in sorted(alike, key=lambda run: run.steps, reverse=True):
            ahead = (of for of in left if _reached(of) < shared_steps(of, run.steps))
            whole = next(ahead, None)
            if whole is None or _reached(run):
                left[run] = {}
            else:
                left[whole][run] = shared_steps(whole, run.steps)
        for of, its in left.items():
            runs.append(dataclasses.replace(of, branch_steps=tuple(sorted(run.steps for run in its))))
            found |= {run: Branch(runs[-1], step) for run, step in its.items()}
    return [*runs, *found], found


def _reached(run: RunConfig) -> int:
    return RunDir(run.run_dir).checkpoint_step()


def own(run: RunConfig, known: Branches) -> float:
    """The part of its steps that the run takes itself."""
    return 1 - known[run].step / run.last_step if run in known else 1.0


def shared(runs: Sequence[RunConfig], known: Branches) -> Iterator[str]:
    """What is saved, in a line; none where nothing is."""
    if known:
        saved = 1 - sum(cost(run) * own(run, known) for run in runs) / sum(map(cost, runs))
        verb = "branches" if len(known) == 1 else "branch"
        yield (
            f"{plural(len(known), 'run')} {verb} off longer ones where the decay begins, "
            f"the same bit for bit: {100 * saved:.0f} % of the compute is shared"
        )
