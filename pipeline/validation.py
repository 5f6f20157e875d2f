"""Whether the settings of a run go together; every complaint is one line that says what to change."""

import dataclasses
import math
import re
from typing import TYPE_CHECKING

from pipeline.errors import RequestError
from pipeline.parameterization import rules

if TYPE_CHECKING:
    from pipeline.config import DataConfig, RunConfig


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise RequestError(message)


def validate(c: "RunConfig") -> None:
    """Raises `RequestError` for the first setting that cannot be."""
    try:
        rules.get(c.param)
    except ValueError as error:
        raise RequestError(f"--param: {error}") from None
    _require(math.isfinite(c.lr) and c.lr > 0, f"--lr must be a positive number, got {c.lr:g}")
    for key in ("width", "base_width", "base_depth", "steps", "global_batch", "seq_len", "devices", "num_nodes",
                "log_interval", "val_interval", "val_sequences", "checkpoint_interval", "keep_last"):  # fmt: skip
        _require(getattr(c, key) >= 1, f"--{key} must be at least 1, got {getattr(c, key)}")
    _require(0 <= c.warmup_steps <= c.steps, f"--warmup_steps must be 0..steps ({c.steps}), got {c.warmup_steps}")
    _require(0 <= c.lr_min_ratio <= 1, f"--lr_min_ratio must be 0..1, got {c.lr_min_ratio:g}")
    _require(0 <= c.seed < 2**63, f"--seed must not be negative, got {c.seed}")
    for key in ("eps", "z_loss", "weight_decay"):
        _require(getattr(c, key) >= 0, f"--{key} must not be negative, got {getattr(c, key):g}")
    _require(c.grad_clip is None or c.grad_clip > 0, f"--grad_clip must be positive or null, got {c.grad_clip}")
    for f in dataclasses.fields(c.mult):
        _require(getattr(c.mult, f.name) > 0, f"--mult.{f.name} must be positive, got {getattr(c.mult, f.name):g}")
    _require(
        c.abort_after is None or c.abort_after >= 1, f"--abort_after must be at least 1 or null, got {c.abort_after}"
    )
    for key in ("checkpoint_minutes", "stall_minutes"):
        minutes = getattr(c, key)
        _require(minutes is None or minutes > 0, f"--{key} must be positive or null, got {minutes}")
    _require(re.fullmatch(r"[\w.+-]+", c.study) is not None, f"--study must be a plain folder name, got {c.study!r}")
    _validate_optimizer(c)
    _validate_data(c)
    _validate_mlp(c) if c.model.kind == "mlp" else _validate_gpt(c)
    _validate_diagnostics(c)
    _validate_processes(c)


def _validate_processes(c: "RunConfig") -> None:
    if c.micro_batch == "auto":
        _require(
            c.global_batch % c.world_size == 0,
            f"--global_batch {c.global_batch} is not a multiple of the {c.world_size} processes",
        )
        return
    assert c.micro_batch is not None
    _require(c.micro_batch >= 1, f"--micro_batch must be at least 1, got {c.micro_batch}")
    _require(
        c.global_batch % (c.micro_batch * c.world_size) == 0,
        f"--global_batch {c.global_batch} is not a multiple of micro_batch {c.micro_batch} x {c.world_size} processes",
    )


def _validate_optimizer(c: "RunConfig") -> None:
    _require(all(0 <= b < 1 for b in c.betas), f"--betas must be in [0, 1), got {list(c.betas)}")
    _require(0 <= c.momentum < 1, f"--momentum must be in [0, 1), got {c.momentum:g}")
    _require(c.momentum == 0 or c.optimizer == "sgd", f"--momentum is SGD's: {c.optimizer} has --betas")
    _require(
        not c.weight_decay or c.optimizer == "adamw" or (c.optimizer == "sgd" and c.momentum == 0),
        "--weight_decay is decoupled: use --optimizer adamw, or sgd without momentum",
    )


def _validate_data(c: "RunConfig") -> None:
    validate_source(c.data)
    if c.data.mode == "stream":
        d = c.data
        _require(c.global_batch % d.lanes == 0, f"--data.lanes {d.lanes} must divide --global_batch {c.global_batch}")
        _require(
            d.lanes % c.world_size == 0,
            f"--data.lanes {d.lanes} is not a multiple of the {c.world_size} processes that train",
        )
    wanted = "mlp" if c.data.dimensions else "gpt"
    _require(c.model.kind == wanted, f"--data {c.data.name} is for --model.kind {wanted}, not {c.model.kind}")


def validate_source(d: "DataConfig") -> None:
    """Raises `RequestError` for the first setting of a data source that cannot be."""
    _require(0 < d.validation_fraction < 1, "--data.validation_fraction must be between 0 and 1")
    _require(not (d.path and d.repo), "--data.path and --data.repo exclude each other: give one")
    _require(d.format != "text" or bool(d.path or d.repo), "--data.format text needs --data.path or --data.repo")
    _require(d.format == "text" or not d.repo, f"--data.repo is read with --data.format text, not {d.format}")
    _require(d.format != "shards" or bool(d.path), "--data.format shards needs --data.path")
    _require(not d.repo or re.fullmatch(r"[\w.-]+/[\w.-]+", d.repo) is not None,
             f"--data.repo must be OWNER/NAME, got {d.repo!r}")  # fmt: skip
    _require(re.fullmatch(r"[\w.+-]+", d.name) is not None, f"--data.name must be a plain folder name, got {d.name!r}")
    _require(isinstance(d.tokens, int | None) and (d.tokens is None or d.tokens >= 1), "--data.tokens must be positive")
    for key in ("lanes", "era"):
        _require(getattr(d, key) >= 1, f"--data.{key} must be at least 1, got {getattr(d, key)}")
    _require(d.workers >= 0, f"--data.workers must not be negative, got {d.workers}")
    _require(d.stall_seconds > 0, f"--data.stall_seconds must be positive, got {d.stall_seconds:g}")
    if d.mode == "stream":
        _require(d.format in ("sotu", "text"), f"--data.mode stream reads text, not {d.format}")
        _require(d.tokenizer != "bpe", "--data.mode stream needs a ready tokenizer: give --data.tokenizer")
    _require(d.mode == "stream" or not d.write_through, "--data.write_through is for --data.mode stream")


def _validate_diagnostics(c: "RunConfig") -> None:
    d, default = c.diagnostics, type(c.diagnostics)()
    for key in ("interval", "first", "sharpness_interval"):
        _require(getattr(d, key) >= 0, f"--diagnostics.{key} must not be negative, got {getattr(d, key)}")
    for key in ("probe", "sharpness_probe", "eigenvalues"):
        _require(getattr(d, key) >= 1, f"--diagnostics.{key} must be at least 1, got {getattr(d, key)}")
    for key in ("reference", "initial", "spectra"):
        _require(
            d.on or getattr(d, key) == getattr(default, key),
            f"--diagnostics.{key} needs --diagnostics.interval or --diagnostics.first",
        )
    for key in ("eigenvalues", "ntk"):
        _require(
            d.sharpness_interval > 0 or getattr(d, key) == getattr(default, key),
            f"--diagnostics.{key} needs --diagnostics.sharpness_interval",
        )


def _validate_mlp(c: "RunConfig") -> None:
    m, default = c.model, type(c.model)()
    _require(2 <= m.n_layer <= 10, f"--model.n_layer of an MLP must be 2..10, got {m.n_layer}")
    for f in dataclasses.fields(m):
        about_mlps = f.name in ("kind", "n_layer", "activation")
        _require(
            about_mlps or getattr(m, f.name) == getattr(default, f.name),
            f"--model.{f.name} is for GPTs, not for an MLP",
        )
    _require(c.depth_scaling == "none", "--depth_scaling needs residual branches: an MLP has none")


def _validate_gpt(c: "RunConfig") -> None:
    m = c.model
    for key in ("n_layer", "head_size", "vocab_size"):
        _require(getattr(m, key) >= 1, f"--model.{key} must be at least 1, got {getattr(m, key)}")
    _require(m.mlp_ratio is None or m.mlp_ratio > 0, f"--model.mlp_ratio must be positive, got {m.mlp_ratio}")
    _require(m.activation == "relu", "--model.activation is for MLPs, not for a GPT")
    if c.width % m.head_size:
        below, above = c.width // m.head_size * m.head_size, (c.width // m.head_size + 1) * m.head_size
        near = f"{below} or {above}" if below else f"{above}"
        raise RequestError(f"--width {c.width} is not divisible by the head size {m.head_size}: use {near}")
    _require(
        c.base_width % m.head_size == 0, f"--base_width {c.base_width} is not divisible by the head size {m.head_size}"
    )
    heads, kv = c.width // m.head_size, m.kv_heads
    if kv != "all":
        _require(kv >= 1, f"--model.kv_heads must be at least 1 or all, got {kv}")
        _require(
            heads % min(kv, heads) == 0, f"--width {c.width} has {heads} heads, not divisible by --model.kv_heads {kv}"
        )
