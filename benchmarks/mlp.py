"""What a study of MLPs costs beside the loop that one would write: ``python -m benchmarks.mlp [--config RECIPE]``.

The same runs, by `pipeline sweep` on all cores, and one after another by a plain PyTorch loop on all threads: the same
initial weights and batches, autograd, torch.optim.SGD, the loss kept at every step, a validation at the end, nothing
written; as written, and ending where the loss is no longer finite, as the sweep does. Whole processes, imports
included; per width the time of a step, over the runs that do not diverge.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.estimators import machine
from pipeline.config import RunConfig
from pipeline.data.open import open_data
from pipeline.data.vectors import Examples
from pipeline.run.directory import RunDir
from pipeline.training.module import TrainingModule


def plain(config: RunConfig, stop: bool) -> tuple[float, int, float]:
    """Seconds, steps taken, and the last loss."""
    ours = TrainingModule(config, open_data(config))
    layers = [nn.Linear(weight.shape[1], weight.shape[0], bias=False) for weight in ours.model.parameters()]
    with torch.no_grad():
        for layer, weight in zip(layers, ours.model.parameters(), strict=True):
            layer.weight.copy_(weight)
    model = nn.Sequential(*(part for layer in layers[:-1] for part in (layer, nn.ReLU())), layers[-1])
    batches = ours.data.train.batches(first_step=0, micro_batch=config.global_batch, rank=0, world_size=1)
    ready = [next(batches) for _ in range(config.steps)]
    val = ours.data.val
    assert isinstance(val, Examples)
    start, losses = time.perf_counter(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr)
    for x, y in ready:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
        if stop and not math.isfinite(losses[-1]):
            break
    else:
        with torch.no_grad():
            F.cross_entropy(model(val.x), val.y).item()
    return time.perf_counter() - start, len(losses), losses[-1]


def runs_of(study: Path) -> list[RunDir]:
    return [RunDir(path.parent) for path in sorted(study.glob("*/result.json"))]


def plain_study(study: Path, stop: bool) -> None:
    """Every run of a finished study; a row of JSON each."""
    for run in runs_of(study):
        print(json.dumps(plain(run.config(), stop)), flush=True)


def timed(command: list[str]) -> tuple[float, str]:
    """Seconds, and what it printed."""
    start = time.perf_counter()
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return time.perf_counter() - start, said


def compare(study: Path, by_loop: list[tuple[float, int, float]]) -> None:
    """A row per width: milliseconds of a step, and the largest difference of the last losses."""
    print("\n| width | loop, ms a step | here, ms a step | ratio | last losses differ by |\n|---|---|---|---|---|")
    at: dict[int, list[tuple[float, float, float]]] = {}
    for run, (seconds, steps, loss) in zip(runs_of(study), by_loop, strict=True):
        result = run.result()
        if result is not None and result.status == "completed":
            ours = result.seconds / (os.cpu_count() or 1)  # so many at a time
            own = abs(run.records()[-1].number("loss") - loss)
            at.setdefault(run.config().width, []).append((seconds / steps, ours / result.steps, own))
    for width, rows in sorted(at.items()):
        loop, here = (1e3 * statistics.median(column) for column in list(zip(*rows, strict=True))[:2])
        most = max(row[2] for row in rows)
        print(f"| {width} | {loop:.2f} | {here:.2f} | {loop / here:.2f} | {most:.1e} |")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mlp", description=__doc__)
    parser.add_argument("--config", default="mlp-multi-index-published")
    parser.add_argument("--widths", default="256,1024,4096")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--stop", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plain:
        plain_study(args.plain, args.stop)
        return 0
    with tempfile.TemporaryDirectory() as out:
        study = Path(out) / "study"
        sweep = [sys.executable, "-m", "pipeline", "sweep", "--config", args.config, "--widths", args.widths]
        ours, _ = timed([*sweep, "--seeds", args.seeds, "--out", out, "--study", study.name])
        loop = [sys.executable, "-m", "benchmarks.mlp", "--plain", str(study)]
        as_written, rows = timed(loop)
        ending, _ = timed([*loop, "--stop"])
        print(f"{args.config}, widths {args.widths}, seeds {args.seeds}; {machine()}\n")
        print(f"the study: {ours:.0f} s here, {as_written:.0f} s by the loop ({as_written / ours:.2f} times as long), ")
        print(f"{ending:.0f} s by a loop that ends what diverges ({ending / ours:.2f} times)")
        compare(study, [json.loads(row) for row in rows.splitlines()])
    return 0


if __name__ == "__main__":
    sys.exit(main())
