"""Time and peak memory of the chunked loss against torch's, forward and backward, each in a process of its own.

``python benchmarks/loss.py`` prints a Markdown table of ratios to ``F.cross_entropy(F.linear(h, weight), targets)``.
Runs of the variants alternate, so that a machine's slow minutes fall on all of them; the median over rounds is
reported.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.losses import linear_loss

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain(h: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(h, weight), targets)


def ours(h: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return linear_loss(h, weight, targets).loss


def torchs(h: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """torch >= 2.13 only."""
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=2048)
    loss: Tensor = F.linear_cross_entropy(h, weight, targets, options=options)
    return loss


VARIANTS: dict[str, Loss] = {"plain": plain, "ours": ours}
if hasattr(F, "linear_cross_entropy"):
    VARIANTS["torch chunked"] = torchs

SHAPES = ((512, 64, 2048), (512, 256, 2048), (8192, 256, 2048), (1024, 256, 50304))


def measure(variant: str, n: int, d: int, v: int) -> dict[str, float]:
    """Seconds of one forward and backward pass (best of five), and the process's memory peak above its start, in MB."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(n, d, generator=generator).requires_grad_()
    weight = torch.randn(v, d, generator=generator).mul_(d**-0.5).requires_grad_()
    targets = torch.randint(0, v, (n,), generator=generator)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(5):
        h.grad = weight.grad = None
        start = time.perf_counter()
        torch.autograd.backward(VARIANTS[variant](h, weight, targets))
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds), "mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        torch.set_num_threads(1)
        print(json.dumps(measure(args.one[0], *map(int, args.one[1:]))))
        return
    print(f"torch {torch.__version__}, Python {platform.python_version()}, one thread, fp32, {args.rounds} rounds\n")
    print("| rows x width x vocabulary | variant | time / plain | peak memory / plain | peak memory, MB |")
    print("|---|---|---|---|---|")
    for shape in SHAPES:
        found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
        for _ in range(args.rounds):
            for name, runs in found.items():
                command = [sys.executable, __file__, "--one", name, *map(str, shape)]
                runs.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        median = {
            name: {key: statistics.median(run[key] for run in runs) for key in ("seconds", "mb")}
            for name, runs in found.items()
        }
        for name, m in median.items():
            time_ratio, memory_ratio = (m[key] / median["plain"][key] for key in ("seconds", "mb"))
            size = " x ".join(map(str, shape))
            print(f"| {size} | {name} | {time_ratio:.2f} | {memory_ratio:.2f} | {m['mb']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
