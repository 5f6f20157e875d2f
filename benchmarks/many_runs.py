"""Reading a study of very many runs: ``python -m benchmarks.many_runs [--runs 10000] [--records 30]``.

The runs are written by the product's own writers, as training leaves them (settings, records, result, seal). Then each
verb reads them in a process of its own: *cold* without the study's cache of rows, *warm* with it. Seconds by the clock,
the least of three, imports included, and of the processors; beside them those of reading and hashing the files alone.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.estimators import machine

WIDTHS = (64, 128, 256, 512)


def write(folder: Path, count: int, n_records: int) -> None:
    """`count` runs over widths, seeds and learning rates, whose losses have a valley that falls like n^-1/2."""
    from pipeline.cli.arguments import parse
    from pipeline.run.directory import RunDir
    from pipeline.run.result import RunResult

    n_lrs = 10
    base, _ = parse("train", f"--config mlp-digits --out {folder.parent} --study {folder.name}".split())
    for number in range(count):
        lr = 2.0 ** (number % n_lrs - 9)
        width = WIDTHS[number // n_lrs % len(WIDTHS)]
        seed = number // (n_lrs * len(WIDTHS))
        config = dataclasses.replace(base, width=width, lr=lr, seed=seed)
        run = RunDir(config.run_dir)
        run.create(config, "0" * 64)
        end = 0.3 + 0.02 * math.log2(lr * (width / 64) ** 0.5 * 2**5) ** 2 + 1e-3 * math.sin(number)
        losses = [end + (2.3 - end) * 0.8**place for place in range(n_records)]
        with run.appending() as records:
            for place, loss in enumerate(losses):
                records.append(
                    {"step": 10 * place + 1, "loss": loss, "lr": lr, "grad_norm": loss, "tokens": 640 * place}
                )
        final = {"final_train_loss": losses[-1], "final_val_loss": losses[-1]}
        run.write_result(RunResult("completed", final, 10 * n_records, 640 * n_records, 1.0, 1.0, width**2, None))


def seconds(command: Sequence[str]) -> tuple[float, float]:
    """By the clock, and of the processors, of a command."""
    before = os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return after.elapsed - before.elapsed, spent


LOAD = "import sys, pipeline; pipeline.load_runs(sys.argv[1])"
PIPELINE = ("-m", "pipeline")
ASKED = {"load_runs": ("-c", LOAD, "{}"), "sweep status": (*PIPELINE, "sweep", "status", "{}"),
         "fit": (*PIPELINE, "fit", "{}")}  # fmt: skip


def bare(folder: Path) -> float:
    """Reading and hashing every file of the runs, and parsing their records."""
    start = time.process_time()
    for file in folder.glob("*/*"):
        if file.is_file():
            content = file.read_bytes()
            hashlib.sha256(content).hexdigest()
            if file.name == "metrics.jsonl":
                for line in content.splitlines():
                    json.loads(line)
    return time.process_time() - start


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_runs", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--records", type=int, default=30, help="per run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "study"
        write(folder, args.runs, args.records)
        print(f"{machine()}; {args.runs} runs of {args.records} records; seconds (of the processors)\n")
        print(f"reading and hashing the files alone: {min(bare(folder) for _ in range(3)):.1f}\n")
        print("| | cold | warm |\n|---|---|---|")
        for name, asked in ASKED.items():
            command = [sys.executable, *(part.format(folder) for part in asked)]
            cold, warm = [], []
            for _ in range(3):
                (folder / "runs.json").unlink(missing_ok=True)
                cold.append(seconds(command))
                warm.append(seconds(command))
            cells = (f"{clock:.1f} ({spent:.1f})" for clock, spent in (min(cold), min(warm)))
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
