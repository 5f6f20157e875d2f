"""What a study takes before it runs: parameters, tokens, FLOPs, memory, disk and time, per width and in all."""

import dataclasses
import itertools
import statistics
import tempfile
from collections.abc import Iterator, Sequence

from pipeline.config import RunConfig, WandbConfig
from pipeline.console import duration, nbytes, plural, table
from pipeline.errors import RequestError
from pipeline.sweep.branches import branches, own
from pipeline.sweep.grid import cost, unfinished
from pipeline.sweep.throughput import Pace, measured, pace_of
from pipeline.training.describe import Size, size

STEPS = 8  # of a calibration, of which the first two warm up

_HEAD = ("width", "runs", "to run", "parameters", "tokens", "FLOPs", "memory", "disk", "time a run", "device-hours")


def calibrate(runs: Sequence[RunConfig]) -> Pace | None:
    """The pace of a few steps at every width, trained in a folder that is then deleted. Raises `RequestError`."""
    import torch

    from pipeline.training.trainer import train

    if runs and runs[0].world_size > 1:
        raise RequestError("--calibrate measures runs of one process: leave out --devices and --num_nodes, or it")
    torch.set_num_threads(1)  # as workers have it
    timed = []
    with tempfile.TemporaryDirectory() as scratch:
        for run in {run.width: run for run in runs}.values():
            last = min(STEPS, run.last_step)
            short = dataclasses.replace(
                run, stop_after=last, log_interval=1, val_interval=run.steps, val_sequences=1, keep_checkpoint=False,
                checkpoint_interval=run.steps, out=scratch, wandb=WandbConfig("disabled"), mirrors=(), abort_after=None,
            )  # fmt: skip
            train(short, show_progress=False)
            timed.append((run, run.total_tokens / _tokens_per_second(short)))
    return pace_of(timed, f"by {STEPS} steps at every width, measured now")


def _tokens_per_second(run: RunConfig) -> float:
    from pipeline.run.directory import RunDir

    return statistics.median(record.number("tokens_per_second") for record in RunDir(run.run_dir).records()[2:])


def lines(runs: Sequence[RunConfig], workers: int | None, calibrated: bool = False) -> Iterator[str]:
    """The table; `workers`: that train at once on this machine, None where runs go elsewhere, each by itself."""
    remaining = unfinished(runs)
    todo = {run.run_name for run in remaining}
    _, known = branches(remaining if workers else [])
    pace = calibrate(runs) if calibrated else measured(runs)
    rows: list[tuple[str, ...]] = [_HEAD]
    flops = disk = hours = 0.0
    same: dict[object, Size] = {}
    for width, found in itertools.groupby(sorted(runs, key=lambda run: run.width), key=lambda run: run.width):
        here = list(found)
        left = [run for run in here if run.run_name in todo]
        sizes = {run.run_name: _size(run, same) for run in here}
        largest = max(here, key=cost)
        its = sum(pace.seconds(run) * own(run, known) * run.world_size / 3600 for run in left) if pace else 0.0
        flops += sum(sizes[run.run_name].flops * own(run, known) for run in left)
        disk += sum(one.disk for one in sizes.values())
        hours += its
        rows.append(
            (
                str(width),
                str(len(here)),
                str(len(left)),
                *_cells(sizes[largest.run_name], largest, pace),
                _hours(its, pace),
            )
        )
    total = (f"{flops:.3g}", "", nbytes(disk), "", _hours(hours, pace))
    rows.append(("all", str(len(runs)), str(len(todo)), "", "", *total))
    yield from table(rows, right=True)
    yield "  tokens to disk: of a run, the largest of its width. memory: weights, gradients, optimizer, unsharded;"
    yield "  activations come on top. FLOPs: forward and backward. In all: FLOPs and hours of what is to run."
    if pace is None:
        yield "  time: not known, since no run of this kind is finished yet; --calibrate measures a few steps"
    elif workers:
        busy = max(
            hours * 3600 / workers, max((pace.seconds(run) for run in runs if run.run_name in todo), default=0.0)
        )
        yield f"  time: {pace.source}; about {duration(busy)} on {plural(workers, 'worker')}"
    else:
        yield f"  time: {pace.source}, on this machine or where these ran"


def _size(run: RunConfig, same: dict[object, Size]) -> Size:
    """`size`, which most runs of a width share."""
    key = (run.width, run.model, run.d_out, run.optimizer, run.total_tokens, run.last_step, run.seq_len)
    if key not in same:
        same[key] = size(run)
    return same[key]


def _cells(one: Size, run: RunConfig, pace: Pace | None) -> tuple[str, ...]:
    time = duration(pace.seconds(run)) if pace else "?"
    return (
        f"{one.parameters:,}",
        f"{run.total_tokens:,}",
        f"{one.flops:.3g}",
        nbytes(one.memory),
        nbytes(one.disk),
        time,
    )


def _hours(hours: float, pace: Pace | None) -> str:
    return f"{hours:.3g}" if pace else "?"
