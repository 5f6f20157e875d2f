"""The training step beside peers': ``python -m benchmarks.step [--threads 1] [--rows gpt-64 mlp-256] [--compile]``.

Every variant is a process of its own, with the memory settings that it makes itself; they take turns, a few steps each,
so that a machine's slow minutes fall on all. A step is: gradients to zero, forward, backward, gradient clipped (GPTs),
optimizer. Ratios are medians over turns of (peer / product) times of the same turn: above 1 the product is faster.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.estimators import machine

Step = Callable[[], object]
TOKENS, LAYERS = 64, 2  # of a sequence; blocks
TURNS, SECONDS = 9, 1.0  # of a turn, about


@dataclass(frozen=True)
class Row:
    """What is trained: a GPT on `batch` sequences of 64 tokens, or the multi-index MLP of 3 layers on 64 vectors."""

    kind: str
    width: int
    vocabulary: int = 2048
    batch: int = 8

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.width}" + (f"-v{self.vocabulary}" if self.vocabulary > 2048 else "")


ROWS = {
    row.name: row
    for row in (
        *(Row("gpt", width) for width in (64, 128, 256, 512)),
        *(Row("gpt", width, 50304) for width in (256, 512)),
        *(Row("mlp", width) for width in (64, 256, 512, 1024)),
    )
}


def _tokens(row: Row) -> Any:
    import torch

    return torch.randint(0, row.vocabulary, (row.batch, TOKENS + 1), generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------------------------------------------------------------
# Variants: functions of a row that give its step


def product(row: Row) -> Step:
    """This package's, as its loop takes it (`pipeline.training.loop`), without the record."""
    from pipeline.cli.arguments import parse
    from pipeline.data.open import open_data
    from pipeline.training.descent import Descent
    from pipeline.training.loop import by_autograd
    from pipeline.training.machine import keep_freed_memory
    from pipeline.training.module import TrainingModule

    keep_freed_memory()
    shape = f"--width {row.width} --wandb disabled --stall_minutes null "
    if row.kind == "gpt":
        shape += f"--model.n_layer {LAYERS} --model.vocab_size {row.vocabulary} --seq_len {TOKENS} --global_batch "
        shape += str(row.batch)
    else:
        shape += "--config mlp-multi-index --model.n_layer 3 --lr 0.01"
    config, _ = parse("train", shape.split())
    module = TrainingModule(config, open_data(config))
    micro: Any = {"first_step": 0, "micro_batch": config.global_batch, "rank": 0, "world_size": 1}
    batch = next(module.data.train.batches(**micro)) if row.kind == "mlp" else _tokens(row)
    optimizer = module.configure_optimizers()["optimizer"]
    step = Descent(module, optimizer) if Descent.suits(module) else by_autograd

    def take() -> None:
        step(module, optimizer, [batch], None)
        module.passes.clear()

    return take


def plain(row: Row, compiled: bool = False) -> Step:
    """The loop that one would write: all logits, torch's own layers, AdamW in one pass."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    if row.kind == "mlp":
        x, y = torch.randn(64, 100), torch.randint(0, 2, (64,))
        sizes = [100, row.width, row.width, 2]
        layers = [nn.Linear(i, o, bias=False) for i, o in itertools.pairwise(sizes)]
        net: Any = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
        optimizer: Any = torch.optim.SGD(net.parameters(), lr=0.01)
        net = torch.compile(net) if compiled else net

        def descend() -> None:
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(net(x), y))
            optimizer.step()

        return descend
    import litgpt

    tokens, net = _tokens(row), litgpt.GPT(_litgpt_config(row))
    net.max_seq_length = TOKENS
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    run = torch.compile(net) if compiled else net

    def step() -> None:
        optimizer.zero_grad()
        logits = run(tokens[:, :-1])
        torch.autograd.backward(F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    return step


def _litgpt_config(row: Row) -> Any:
    from pipeline.config import ModelConfig
    from pipeline.models.gpt import litgpt_config

    return litgpt_config(ModelConfig(n_layer=LAYERS, vocab_size=row.vocabulary), row.width, TOKENS)


def litgpts(row: Row) -> Step | None:
    """litgpt's own loss and optimizer settings around its model, not compiled."""
    import litgpt
    import torch
    from litgpt.utils import chunked_cross_entropy

    if row.kind == "mlp":
        return None
    tokens, net = _tokens(row), litgpt.GPT(_litgpt_config(row))
    net.max_seq_length = TOKENS
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)

    def step() -> None:
        logits = net(tokens[:, :-1])
        torch.autograd.backward(chunked_cross_entropy(logits, tokens[:, 1:]))
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def transformers(row: Row) -> Step | None:
    """GPT-NeoX of transformers, which has no qk-norm."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    if row.kind == "mlp":
        return None
    tokens = _tokens(row)
    heads = row.width // 32
    config = GPTNeoXConfig(vocab_size=row.vocabulary, hidden_size=row.width, num_hidden_layers=LAYERS,
                           num_attention_heads=heads, intermediate_size=4 * row.width)  # fmt: skip
    net: Any = GPTNeoXForCausalLM(config)  # type: ignore[no-untyped-call]
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(net(input_ids=tokens[:, :-1], labels=tokens[:, :-1], use_cache=False).loss)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    return step


COMPILED = "compiled loop"
VARIANTS: dict[str, Callable[[Row], Step | None]] = {
    "product": product,
    "plain loop": plain,
    "litgpt eager": litgpts,
    "HF GPTNeoX": transformers,
}


# ---------------------------------------------------------------------------------------------------------------------
# Turns


def _serve(connection: Connection, variant: str, row: Row, threads: int) -> None:
    """In a process of the variant: for every number of steps that comes in, their seconds; at first, how many fill a
    turn."""
    import torch

    torch.set_num_threads(threads)
    step = plain(row, compiled=True) if variant == COMPILED else VARIANTS[variant](row)
    if step is None:
        connection.send(None)
        return
    for _ in range(3):
        step()
    connection.send(_seconds(step, 3) / 3)
    while count := connection.recv():
        connection.send(_seconds(step, count))


def _seconds(step: Step, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        step()
    return time.perf_counter() - start


def measure(row: Row, variants: list[str], threads: int) -> Iterator[tuple[str, list[float]]]:
    """Every variant with its milliseconds per step, turn by turn."""
    context = multiprocessing.get_context("spawn")
    peers: dict[str, tuple[Connection, int]] = {}
    times: dict[str, list[float]] = {}
    for variant in variants:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, variant, row, threads), daemon=True)
        process.start()
        theirs.close()  # so that a process that fails ends the wait for it
        if (first := ours.recv()) is not None:
            peers[variant] = (ours, max(1, round(SECONDS / first)))
            times[variant] = []
    for _ in range(TURNS):
        for variant, (connection, count) in peers.items():
            connection.send(count)
            times[variant].append(1e3 * connection.recv() / count)
    for connection, _ in peers.values():
        connection.send(0)
    yield from times.items()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--compile", action="store_true", help="also a plain loop under torch.compile (minutes each)")
    parser.add_argument("--json", type=Path, help="also write the times of every turn here")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    variants = [*VARIANTS, *([COMPILED] if args.compile else [])]
    kept = {}
    print(f"{args.threads} thread(s), {machine()}\n\n| row | product, ms | " + " | ".join(variants[1:]) + " |")
    print("|---" * (len(variants) + 1) + "|")
    for name in args.rows:
        times = kept[name] = dict(measure(ROWS[name], variants, args.threads))
        cells = [f"{statistics.median(times['product']):.2f}"]
        for variant in variants[1:]:
            ratios = sorted(peer / own for peer, own in zip(times.get(variant, []), times["product"], strict=False))
            cells.append(f"{statistics.median(ratios):.2f} ({ratios[1]:.2f}-{ratios[-2]:.2f})" if ratios else "-")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"threads": args.threads, "machine": machine(), "times": kept}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
