"""A study folder whose runs recorded coordinates that are exact power laws of the width, without training anything."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.analysis.inside.lr_rules import remember
from pipeline.config import DataConfig, DiagnosticsConfig, ModelConfig, RunConfig, run_settings

WIDTHS = (64, 128, 256, 512)
MLP = RunConfig(
    width=256, base_width=256, lr=1e-3, optimizer="sgd", steps=3, warmup_steps=0, lr_min_ratio=1.0, global_batch=64,
    grad_clip=None, embedding_init="constant", diagnostics=DiagnosticsConfig(first=3),
    model=ModelConfig(kind="mlp", n_layer=4), data=DataConfig(name="digits", format="digits"),
)  # fmt: skip
GPT = RunConfig(
    width=256, base_width=256, lr=1e-2, optimizer="adamw", steps=3, warmup_steps=0, lr_min_ratio=1.0, global_batch=8,
    seq_len=16, model=ModelConfig(n_layer=2, vocab_size=50304), diagnostics=DiagnosticsConfig(first=3),
)  # fmt: skip

Value = Callable[[str, int], float]
"""Of a flat name and a step at the run's width."""


def mlp_weights(config: RunConfig) -> list[str]:
    return [*(f"layers.{i}.weight" for i in range(config.model.n_layer - 1)), "readout.weight"]


def gpt_weights(config: RunConfig) -> list[str]:
    block = [
        *(f"attn.{w}.{p}" for w in ("q", "k", "v", "proj") for p in ("weight", "bias")),
        *(f"mlp.{w}.{p}" for w in ("fc", "proj") for p in ("weight", "bias")),
        *(f"{w}.{p}" for w in ("norm_1", "norm_2", "attn.norm_q", "attn.norm_k") for p in ("weight", "bias")),
    ]
    blocks = [f"transformer.h.{i}.{w}" for i in range(config.model.n_layer) for w in block]
    return ["transformer.wte.weight", *blocks, "transformer.ln_f.weight", "transformer.ln_f.bias", "lm_head.weight"]


def write_coordinates(
    folder: Path,
    base: RunConfig,
    exponents: Mapping[tuple[str, str], float],
    *,
    lr_exponent: Fraction = Fraction(0),
    widths: Sequence[int] = WIDTHS,
    seeds: Sequence[int] = (0, 1, 2),
    noise: float = 0.02,
    extra: Callable[[RunConfig, int], Mapping[str, float | None]] = lambda *_: {},
    diverged: Callable[[RunConfig], bool] = lambda _: False,
    ask: bool = True,
) -> Path:
    """Runs at lr * (n / base)^lr_exponent. `exponents`: by quantity and weight, with "" for every other weight; a
    quantity of a weight that has none is not recorded. Values are step * (n/256)^exponent times lognormal noise."""
    weights = mlp_weights(base) if base.model.kind == "mlp" else gpt_weights(base)
    quantities = {quantity for quantity, _ in exponents}
    for width in widths:
        for seed in seeds:
            lr = base.lr * (width / base.base_width) ** float(lr_exponent)
            config = dataclasses.replace(base, width=width, seed=seed, lr=lr)
            rng = np.random.default_rng(hash((width, seed)) % 2**32)
            records: list[dict[str, Any]] = []
            for step in range(1, config.steps + 1):
                record: dict[str, Any] = {
                    "step": step,
                    "loss": 3.0 - 0.1 * step + 0.01 * rng.random(),
                    "lr": lr,
                    "logit_rms": 1.0,
                }
                for quantity in sorted(quantities):
                    for weight in weights:
                        exponent = exponents.get((quantity, weight), exponents.get((quantity, "")))
                        if exponent is not None:
                            value = step * (width / 256) ** exponent * np.exp(noise * rng.standard_normal())
                            record[f"{quantity}/{weight}"] = float(value)
                records.append(record | extra(config, step))
            write_records(folder, config, records, diverged=diverged(config))
    if ask:
        remember(folder, [(base.lr, lr_exponent)])
    return folder


def write_records(
    folder: Path, config: RunConfig, records: Sequence[Mapping[str, Any]], diverged: bool = False
) -> None:
    run_dir = folder / config.run_name
    run_dir.mkdir(parents=True)
    (run_dir / "config.yaml").write_text(yaml.safe_dump(run_settings(config) | {"recorded": {}}, sort_keys=False))
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    result = {
        "status": "diverged" if diverged else "completed",
        "final_train_loss": None if diverged else records[-1]["loss"],
        "final_val_loss": None if diverged else records[-1]["loss"],
        "final_train_accuracy": 0.9, "final_val_accuracy": 0.9,
        "steps": len(records), "tokens": 1, "seconds": 1.0, "tokens_per_second": 1.0, "parameters": 1,
        "diverged_at": len(records) if diverged else None,
    }  # fmt: skip
    (run_dir / "result.json").write_text(json.dumps(result))
