"""The training step beside peers': ``python -m benchmarks.step [--threads 1 2] [--rows gpt-64 mlp-256] [--compile]``.

Every variant (`benchmarks.peers`) is a process of its own, with the memory settings that it makes itself; they take
turns, a few steps each, so that a machine's slow minutes fall on all. Ratios are medians over turns of (peer / product)
times of the same turn: above 1 the product is faster. Times are those of the clock, or with ``--cpu`` of the
processors, where a machine is too busy for the clock. Beside them what the machine can do: products of matrices and
copies.
"""

import argparse
import json
import multiprocessing
import os
import re
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.estimators import machine
from benchmarks.peers import COMPILED, VARIANTS, Row, Step

TURNS, SECONDS = 9, 1.0  # of a turn, about

ROWS = {
    row.name: row
    for row in (
        *(Row("gpt", width) for width in (64, 128, 256, 512)),
        *(Row("gpt", width, 50304) for width in (256, 512)),
        *(Row("gpt", width, bf16=True) for width in (256, 512)),
        *(Row("mlp", width) for width in (64, 256, 512, 1024)),
    )
}


def limits(device: str, size: int, numbers: int) -> dict[str, float]:
    """GFLOP/s of square products in float32 and bf16, the best of this machine's libraries, and GB/s of a copy, read
    and written."""
    import torch

    from pipeline.products import _onednn

    found = {}
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        ways: list[Step] = [lambda a=a, b=b: a @ b]  # type: ignore[misc]
        if device == "cpu" and _onednn is not None:
            ways.append(lambda a=a, b=b: _onednn(a, b, None, "none", [], ""))  # type: ignore[misc]
        found[f"matmul {name}, GFLOP/s"] = 2e-9 * size**3 / min(_best(way, device) for way in ways)
    source, goal = (torch.zeros(numbers, device=device) for _ in range(2))
    found["copy, GB/s"] = 8e-9 * numbers / _best(lambda: goal.copy_(source), device)
    return found


def _best(step: Step, device: str) -> float:
    step()
    return min(_seconds(step, 1, device, cpu=False) for _ in range(5))


def _serve(connection: Connection, variant: str, row: Row, threads: int, cpu: bool) -> None:
    """In a process of the variant: for every number of steps that comes in, their seconds; at first, how many fill a
    turn; at last, the MB that it had at most: of the GPU's memory, or all of the process."""
    import torch

    torch.set_num_threads(threads)
    step = VARIANTS[variant](row)
    if step is None:
        connection.send(None)
        return
    for _ in range(3):
        step()
    connection.send(_seconds(step, 3, row.device, cpu=False) / 3)
    while count := connection.recv():
        connection.send(_seconds(step, count, row.device, cpu=cpu))
    most = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    assert most is not None
    connection.send(int(most[1]) / 1024 if row.device == "cpu" else torch.cuda.max_memory_allocated() / 2**20)


def _seconds(step: Step, count: int, device: str, *, cpu: bool) -> float:
    import torch

    clock = time.process_time if cpu else time.perf_counter
    start = clock()
    for _ in range(count):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def measure(
    row: Row, variants: list[str], threads: int, *, turns: int = TURNS, seconds: float = SECONDS, cpu: bool = False
) -> dict[str, dict[str, Any]]:
    """Of every variant that has such a step: ``ms`` a step, turn by turn, and ``mb``; of one that fails: ``error``."""
    context = multiprocessing.get_context("spawn")
    peers: dict[str, tuple[Connection, int]] = {}
    found: dict[str, dict[str, Any]] = {}
    for variant in variants:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, variant, row, threads, cpu), daemon=True)
        process.start()
        theirs.close()  # so that a process that fails ends the wait for it
        try:
            first = ours.recv()
        except EOFError:
            process.join()
            found[variant] = {"error": f"exit code {process.exitcode}; what it said is above"}
            continue
        if first is not None:
            peers[variant] = (ours, max(1, round(seconds / first)))
            found[variant] = {"ms": []}
    for _ in range(turns):
        for variant, (connection, count) in peers.items():
            connection.send(count)
            found[variant]["ms"].append(1e3 * connection.recv() / count)
    for variant, (connection, _) in peers.items():
        connection.send(0)
        found[variant]["mb"] = round(connection.recv())
    return found


def ratios(found: dict[str, dict[str, Any]], variant: str) -> list[float]:
    """Of the peer's times to the product's, in order."""
    theirs, own = (found.get(name, {}).get("ms", []) for name in (variant, "product"))
    return sorted(peer / ours for peer, ours in zip(theirs, own, strict=False))


def table_row(name: str, found: dict[str, dict[str, Any]], variants: list[str]) -> str:
    """Median ratios with their second smallest and second largest, and MB."""
    own = found["product"]
    cells = [f"{statistics.median(own['ms']):.2f}, {own['mb']} MB" if "ms" in own else own["error"]]
    for variant in variants[1:]:
        if sides := ratios(found, variant):
            spread = f"({sides[min(1, len(sides) - 1)]:.2f}-{sides[max(0, len(sides) - 2)]:.2f})"
            cells.append(f"{statistics.median(sides):.2f} {spread}, {found[variant]['mb']} MB")
        else:
            cells.append("failed" if variant in found else "-")
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a turn, about")
    parser.add_argument("--compile", action="store_true", help="also compiled peers (minutes each)")
    parser.add_argument("--cpu", action="store_true", help="processors' time, not the clock's")
    parser.add_argument("--json", type=Path, help="also write the times of every turn here, row by row")
    args = parser.parse_args()
    variants = [name for name in VARIANTS if args.compile or name not in COMPILED]
    kept: dict[str, Any] = {"machine": machine(), "clock": "processors" if args.cpu else "wall", "rows": {}}
    for threads in args.threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        import torch

        torch.set_num_threads(threads)
        kept["rows"][threads] = {}
        able = kept.setdefault("limits", {})[threads] = limits("cpu", 1024, 2**26)
        print(f"\n{threads} thread(s), {machine()}; " + ", ".join(f"{k} {v:.0f}" for k, v in able.items()))
        print("\n| row | product, ms | " + " | ".join(variants[1:]) + " |" + "\n|---" + "|---" * len(variants) + "|")
        for name in args.rows:
            found = measure(ROWS[name], variants, threads, turns=args.turns, seconds=args.seconds, cpu=args.cpu)
            kept["rows"][threads][name] = found
            print(table_row(name, found, variants), flush=True)
            if args.json:
                args.json.write_text(json.dumps(kept, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
