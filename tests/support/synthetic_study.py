"""A study folder with a known valley, as the trainer would have written it, without training anything."""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import DataConfig, ModelConfig, RunConfig, run_settings
from pipeline.strict_yaml import dump_yaml

WIDTHS = (64, 128, 256)
LRS = tuple(1e-3 * 2**k for k in range(7))
BASE = RunConfig(
    width=64,
    base_width=64,
    steps=60,
    warmup_steps=6,
    global_batch=8,
    seq_len=64,
    model=ModelConfig(n_layer=2, vocab_size=2048),
    data=DataConfig(license="Public domain", citation="State of the Union addresses"),
)
INITIAL_LOSS = math.log(2048)


def valley(exponent: float, best_at_64: float = 8e-3, edge_octaves: float = 1.5) -> Callable[[RunConfig], float]:
    """Final loss of a run: a parabola in log2 lr around best_at_64 * (n/64)^exponent, which narrow widths sit higher
    on; nan from `edge_octaves` above the optimum on."""

    def loss(config: RunConfig) -> float:
        octaves = math.log2(config.lr / best_at_64) - exponent * math.log2(config.width / 64)
        if octaves > edge_octaves:
            return math.nan
        return 5.0 - 0.25 * math.log2(config.width / 64) + 0.08 * octaves**2 + 0.01 * config.seed

    return loss


def write_study(
    folder: Path,
    loss: Callable[[RunConfig], float],
    /,
    params: Sequence[str] = ("sp",),
    widths: Sequence[int] = WIDTHS,
    lrs: Sequence[float] = LRS,
    seeds: Sequence[int] = (0,),
    norm: Callable[[RunConfig, int], float] | None = None,
    **settings: Any,
) -> Path:
    """One run per point of the grid; `settings` replace those of `BASE`; `norm` is the gradient's at a step."""
    for param in params:
        for width in widths:
            for lr in lrs:
                for seed in seeds:
                    config = dataclasses.replace(BASE, param=param, width=width, lr=lr, seed=seed, **settings)
                    write_run(folder, config, loss(config), norm=norm)
    return folder


def write_run(
    folder: Path,
    config: RunConfig,
    final_loss: float,
    losses: Sequence[float] | None = None,
    norm: Callable[[RunConfig, int], float] | None = None,
    **result: Any,
) -> Path:
    """A finished run whose loss falls exponentially to `final_loss`, or follows `losses`; nan: diverged half-way.
    `result` replaces entries of result.json, ``status="failed"`` for one."""
    run_dir = folder / config.run_name
    run_dir.mkdir(parents=True)
    recorded = {"recorded": {"package": "0.1.0"}}
    (run_dir / "config.yaml").write_text(dump_yaml(run_settings(config) | recorded))
    steps = np.arange(1, config.steps + 1)
    if losses is None:
        target = INITIAL_LOSS + 2 if math.isnan(final_loss) else final_loss
        losses = target + (INITIAL_LOSS - target) * np.exp(-(steps - 1) / 10)
        if math.isnan(final_loss):
            losses = [*losses[: config.steps // 2], math.nan]
    records: list[dict[str, Any]] = [{"step": step, "loss": null(value)} for step, value in enumerate(losses, start=1)]
    if norm is not None:
        records = [record | {"grad_norm": null(norm(config, record["step"]))} for record in records]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    entries = {
        "status": "diverged" if math.isnan(final_loss) else "completed",
        "final_train_loss": null(final_loss),
        "final_val_loss": null(final_loss + 0.1),
        "steps": len(losses),
        "tokens": len(losses) * config.global_batch * config.seq_len,
        "seconds": 4.2,
        "tokens_per_second": 7300.0,
        "parameters": 12 * config.width**2,
        "diverged_at": len(losses) if math.isnan(final_loss) else None,
    }
    (run_dir / "result.json").write_text(json.dumps(entries | result))
    return run_dir


def null(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
