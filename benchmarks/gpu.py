"""Everything that waits for a GPU, in one command: ``python -m benchmarks.gpu --minutes 9 --out DIR``.

Parts in order of worth, each a process of its own with its share of the time that is left; what a part finds is in
``DIR/PART.json`` as soon as it is known, and ``DIR/PART.log`` is what it said. Without a GPU, ``--device cpu --tiny``
goes through all of it in small, to see that it runs.

limits: products of matrices and copies; step: this package's step and its peers' at the paper's widths, against the
floor that the limits set; tests: those marked `cuda`; loss: chunks of how many rows; runs: many small ones that share
the card; strategies: each with one process; study: a small study of GPTs.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers import COMPILED, VARIANTS, Row
from benchmarks.step import limits, measure, ratios

WIDTHS = {256: 256, 512: 256, 1024: 256, 2048: 128, 4096: 64}
"""Of the paper's recipe, with the sequences that fit in a micro-batch."""
VOCABULARY, LENGTH, BLOCKS = 50304, 512, 6


def part_limits(device: str, tiny: bool, out: Path) -> Iterator[dict[str, Any]]:
    """What the machine is and can do."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda}
    yield {"device": name, **versions, **limits(device, 256 if tiny else 8192, 2**20 if tiny else 2**30)}


def part_step(device: str, tiny: bool, out: Path) -> Iterator[dict[str, Any]]:
    """A row per width: milliseconds and MB of every variant, the peers' ratios, and this package's FLOP/s; with the
    limits known, how far from the floor."""
    known = out / "limits.json"
    able = json.loads(known.read_text())[0]["matmul bf16, GFLOP/s"] if known.exists() else None
    for width, batch in ({32: 2} if tiny else WIDTHS).items():
        row = (
            Row("gpt", width, 300, batch, 16, 1, bf16=True, device=device)
            if tiny
            else Row("gpt", width, VOCABULARY, batch, LENGTH, BLOCKS, bf16=True, device=device)
        )
        variants = [name for name in VARIANTS if not (tiny and name in COMPILED)]
        found = measure(row, variants, 1, turns=2 if tiny else 5, seconds=0.05 if tiny else 1.0)
        flop = flops(row)
        entry: dict[str, Any] = {"row": vars(row), "flop": flop, "found": found}
        entry["peer / product"] = {name: ratios(found, name) for name in variants[1:] if ratios(found, name)}
        if times := found["product"].get("ms"):
            rate = flop / min(times) * 1e-6
            entry |= {"GFLOP/s": rate, "of the matmul limit": rate / able if able else None}
        yield entry


def flops(row: Row) -> float:
    """Of a step's products, forward and backward: 6 a weight and token, attention's scores and sums beside them."""
    body = row.layers * 12 * row.width**2 + row.width * row.vocabulary
    attention = 12 * row.layers * row.width * row.tokens / 2  # causal
    return float(row.batch * row.tokens * (6 * body + attention))


def part_tests(device: str, tiny: bool, out: Path) -> Iterator[dict[str, Any]]:
    """The tests that want a GPU; with `tiny` they are only collected."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "tests", "-p", "no:cacheprovider"]
    said = subprocess.run([*command, *(["--collect-only"] if tiny else [])], stdout=subprocess.PIPE, text=True)
    print(said.stdout)
    yield {"exit code": said.returncode, "said": said.stdout.splitlines()[-1:]}


def part_loss(device: str, tiny: bool, out: Path) -> Iterator[dict[str, Any]]:
    """Forward and backward of the chunked loss by the rows of a chunk, and of torch's own."""
    import torch
    from torch.nn import functional as F

    from pipeline.losses import linear_loss

    tokens, width, vocabulary = (64, 32, 300) if tiny else (65536, 1024, VOCABULARY)
    h = torch.randn(tokens, width, device=device).requires_grad_()
    weight = (torch.randn(vocabulary, width, device=device) * width**-0.5).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), device=device)
    for rows in (16, 32) if tiny else (1024, 2048, 4096, 8192, 16384):
        yield {"rows": rows, **_timed(lambda rows=rows: linear_loss(h, weight, targets, chunk_rows=rows).loss, device)}
    if hasattr(F, "linear_cross_entropy"):
        options = torch.nn.LinearCrossEntropyOptions()
        yield {"rows": "torch's", **_timed(lambda: F.linear_cross_entropy(h, weight, targets, options=options), device)}


def _timed(loss: Any, device: str) -> dict[str, float]:
    import torch

    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16):
            value = loss()
        torch.autograd.backward(value)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    most = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0
    return {"ms": 1e3 * best, "mb": most}


def part_runs(device: str, tiny: bool, out: Path) -> Iterator[dict[str, Any]]:
    """Seconds of a study of small MLPs by the number of processes that share the card."""
    shape = "--widths 32 --lrs 0.01,0.1 --steps 4" if tiny else "--widths 256 --lrs 1e-3:1:16"
    for workers in (1, 2) if tiny else (1, 4, 16):
        study = f"--config mlp-multi-index {shape} --params sp --seeds 0 --workers {workers} --study runs-{workers}"
        yield {"workers": workers, **_pipeline("sweep", *study.split(), "--out", str(out / "runs"))}


def part_strategies(device: str, tiny: bool, out: Path) -> Iterator[dict[str, Any]]:
    """Each with one process: the losses of its last step are to agree."""
    shape = "--width 32 --steps 2 --warmup_steps 0 --model.n_layer 1 --seq_len 16" if tiny else "--width 256 --steps 50"
    for strategy in ("auto", "ddp", "fsdp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3"):
        given = f"train {shape} --lr 1e-3 --wandb disabled --strategy {strategy} --study {strategy} --json"
        yield {"strategy": strategy, **_pipeline(*given.split(), "--out", str(out / "runs"))}


def part_study(device: str, tiny: bool, out: Path) -> Iterator[dict[str, Any]]:
    """Small GPTs over widths and learning rates, fitted: as far as the time allows."""
    shape = "--widths 32 --lrs 1e-3,1e-2 --steps 3 --warmup_steps 0 --model.n_layer 1 --seq_len 16" if tiny else (
        "--widths 256,512,1024 --lrs 1e-4:1e-1:x4 --steps 400 --precision bf16-mixed --global_batch 64 --seq_len 256"
    )  # fmt: skip
    study = f"{shape} --params sp --seeds 0 --study proxy --wandb disabled"
    yield _pipeline("sweep", *study.split(), "--out", str(out / "runs"))


def _pipeline(*arguments: str) -> dict[str, Any]:
    start = time.perf_counter()
    said = subprocess.run([sys.executable, "-m", "pipeline", *arguments], stdout=subprocess.PIPE, text=True)
    print(said.stdout, flush=True)
    ended = {"seconds": time.perf_counter() - start, "exit code": said.returncode}
    result = json.loads(said.stdout) if "--json" in arguments and said.returncode == 0 else {}
    return ended | {key: result[key] for key in ("final_train_loss", "final_val_loss") if key in result}


PARTS = {
    "limits": (part_limits, 0.05),
    "step": (part_step, 0.4),
    "tests": (part_tests, 0.2),
    "loss": (part_loss, 0.15),
    "runs": (part_runs, 0.3),
    "strategies": (part_strategies, 0.5),
    "study": (part_study, 1.0),
}
"""In order of worth, with the share of the time left that each may take at most."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that a CPU does in seconds")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.part:
        found = []
        for entry in PARTS[args.part][0](args.device, args.tiny, args.out):
            found.append(entry)
            (args.out / f"{args.part}.json").write_text(json.dumps(found, indent=1) + "\n")
        return 0
    end, failed = time.monotonic() + 60 * args.minutes, False
    for name in args.parts:
        seconds = max(1.0, PARTS[name][1] * (end - time.monotonic()))
        command = [sys.executable, "-m", "benchmarks.gpu", "--part", name, "--device", args.device]
        command += ["--out", str(args.out), *(["--tiny"] if args.tiny else [])]
        said = _ended(command, seconds, args.out / f"{name}.log")
        failed |= said != "done"
        print(f"{name}: {said}", flush=True)
    return int(failed)


def _ended(command: list[str], seconds: float, log: Path) -> str:
    """How a part ended, which is stopped with all that it started when its time is up."""
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
        return f"stopped after {seconds:.0f} s; what it found until then is there"
    return "done" if code == 0 else f"failed (exit code {code}): {log}"


if __name__ == "__main__":
    sys.exit(main())
