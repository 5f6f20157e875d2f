"""Every setting of a run and of a study, with its default, as frozen dataclasses. `recipes` reads them from YAML and flags."""

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.parameterization import rules
from pipeline.parameterization.rules import EmbeddingInit, Width


class RequestError(ValueError):
    """The request was wrong; the message is one line that says what to change. The command line exits with 2."""


@dataclass(frozen=True)
class ModelConfig:
    """Architecture at every width: a Pythia-style GPT (litgpt's model) of which only the width is scaled."""

    n_layer: int = 6
    """Transformer blocks."""
    head_size: int = 32
    """Dimension of one attention head, the same at every width; the number of heads is width / head_size."""
    kv_heads: int | Literal["all"] = "all"
    """Key/value heads: all (one per query head) or a fixed number (the published runs: 4). Never more than heads."""
    mlp_ratio: int = 4
    """Hidden size of the MLP over the width."""
    vocab_size: int = 50304
    """Rows of the embedding and of the readout. A tokenizer trained by the pipeline gets this many entries."""
    qk_norm: bool = True
    """LayerNorm on queries and keys, per head."""
    train_norms: bool = True
    """Train the gains and biases of all LayerNorms; false fixes them at initialization."""


@dataclass(frozen=True)
class DataConfig:
    """Where text comes from and how it becomes tokens."""

    name: str = "sotu"
    """Name of the source, shown in reports and used for its cache folder."""
    format: Literal["sotu", "text"] = "sotu"
    """sotu: speeches of the installed package of that name. text: plain text, documents parted by blank lines."""
    path: str = ""
    """File or glob to read, for format text."""
    tokenizer: str = "bpe"
    """bpe: a byte-level BPE of model.vocab_size entries, trained on the training documents; or a tokenizer.json."""
    validation_fraction: float = 0.05
    """Share of the documents, chosen by their hash, kept for validation."""
    license: str = ""
    """Licence of the text, carried into the manifest."""
    citation: str = ""
    """Whom to cite for the text, carried into the manifest."""


@dataclass(frozen=True)
class RunConfig:
    """One training run."""

    width: int = 256
    """Width n of the model."""
    param: str = "sp"
    """Parameterization, an entry of pipeline/parameterization/rules.py: sp, mup, ..."""
    lr: float = 3e-3
    """Peak learning rate of the base group, before any width factor of the parameterization."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Optimizer."""
    loss: Literal["cross_entropy"] = "cross_entropy"
    """Training loss."""
    seed: int = 0
    """Seed of the initialization and of the order of the data."""
    steps: int = 1000
    """Optimizer steps."""
    warmup_steps: int = 100
    """Steps of linear warm-up; cosine decay to lr_min_ratio * lr follows."""
    lr_min_ratio: float = 0.1
    """Learning rate at the last step over the peak."""
    global_batch: int = 256
    """Sequences per optimizer step over all devices."""
    micro_batch: int | None = None
    """Sequences per forward pass on one device; null: global_batch / devices. Gradients accumulate in between."""
    seq_len: int = 512
    """Tokens per sequence."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Lightning precision: fp32, or bf16 autocast over fp32 weights."""
    devices: int = 1
    """Accelerators (or CPU processes) per node."""
    num_nodes: int = 1
    """Nodes."""
    strategy: Literal["auto", "ddp"] = "auto"
    """Lightning strategy."""
    base_width: int = 256
    """Width n_base at which all parameterizations are the same model and take the same steps."""
    embedding_init: EmbeddingInit = "neox"
    """neox: under SP the embedding's std shrinks like n^-1/2, as in the published runs. constant: it does not."""
    readout_init: Literal["standard", "zero"] = "standard"
    """Initial readout weight: drawn by the parameterization's rule, or zero (the published muP runs)."""
    weight_decay: float | None = None
    """Weight decay at the base width, on every tensor; null: 0.1 under AdamW, 0 under SGD."""
    weight_decay_scaling: Literal["inverse_lr", "constant"] = "inverse_lr"
    """inverse_lr: decay is divided by the width factor of the learning rate, so lr * decay stays as at base width."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's betas."""
    eps: float = 1e-12
    """AdamW's epsilon."""
    grad_clip: float | None = 1.0
    """Largest global norm of the gradient; null: no clipping."""
    log_interval: int = 1
    """Steps between records of metrics.jsonl."""
    val_interval: int = 1000
    """Steps between validations; the last step is always validated."""
    val_sequences: int = 256
    """Sequences of the validation split that a validation reads, always the same ones."""
    checkpoint_interval: int = 1000
    """Steps between checkpoints; an interrupted run loses at most this many."""
    keep_checkpoint: bool = True
    """Keep the last checkpoint of a finished run."""
    study: str = "default"
    """Study that the run belongs to: its folder under out, its group in W&B."""
    out: str = "runs"
    """Folder of all studies."""
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Mirror to W&B; auto: online where logged in, else disabled."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()

    def __post_init__(self) -> None:
        if self.weight_decay is None:
            object.__setattr__(self, "weight_decay", 0.1 if self.optimizer == "adamw" else 0.0)
        if self.micro_batch is None:
            object.__setattr__(self, "micro_batch", max(1, self.global_batch // self.world_size))
        _validate(self)

    @property
    def world_size(self) -> int:
        return self.devices * self.num_nodes

    @property
    def accumulation(self) -> int:
        """Forward passes per optimizer step on one device."""
        assert self.micro_batch is not None
        return self.global_batch // (self.micro_batch * self.world_size)

    @property
    def total_tokens(self) -> int:
        return self.steps * self.global_batch * self.seq_len

    @property
    def width_point(self) -> Width:
        return Width(self.width, self.base_width, self.model.vocab_size)

    @property
    def run_name(self) -> str:
        """Readable and unique: ``sp-adamw-w1024-lr3e-3-s0-<8 hex of the config hash>``."""
        lr = re.sub(r"e([+-])0*", lambda e: "e" + e[1].strip("+"), f"{self.lr:.12e}".replace("e+00", ""))
        lr = re.sub(r"\.?0+(?=e|$)", "", lr)
        return f"{self.param}-{self.optimizer}-w{self.width}-lr{lr}-s{self.seed}-{config_hash(self)}"

    @property
    def run_dir(self) -> Path:
        return Path(self.out) / self.study / self.run_name


@dataclass(frozen=True)
class SweepConfig(RunConfig):
    """A study: the runs of a grid, each as RunConfig describes it."""

    widths: tuple[int, ...] = ()
    """Widths of the study."""
    lrs: tuple[float, ...] = ()
    """Learning rates, the same at every width."""
    params: tuple[str, ...] = ()
    """Parameterizations; empty: the one of --param."""
    seeds: tuple[int, ...] = ()
    """Seeds; empty: the one of --seed."""
    workers: int = 0
    """Worker processes, single-threaded each; 0: one per GPU or, without one, per core."""


# What does not change the mathematics of a run: where it goes, what it runs on, how often it writes.
_NOT_HASHED = {
    "out", "study", "wandb", "devices", "num_nodes", "strategy", "micro_batch",
    "log_interval", "val_interval", "checkpoint_interval", "keep_checkpoint",
    "data.license", "data.citation",
}  # fmt: skip


def run_settings(config: RunConfig) -> dict[str, Any]:
    """The run's settings as plain nested values, in the order of the fields, without a study's grid."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(RunConfig)}


def hashed_settings(config: RunConfig) -> dict[str, Any]:
    """Flat ``{"model.n_layer": 6, ...}`` of every setting that changes the mathematics of a run."""
    flat = {}
    for key, value in run_settings(config).items():
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": v for inner, v in value.items()})
        else:
            flat[key] = value
    return {key: value for key, value in flat.items() if key not in _NOT_HASHED}


def config_hash(config: RunConfig) -> str:
    """8 hex digits over `hashed_settings`."""
    text = json.dumps(hashed_settings(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return list(value) if isinstance(value, tuple) else value


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise RequestError(message)


def _validate(c: RunConfig) -> None:
    try:
        rules.get(c.param)
    except ValueError as error:
        raise RequestError(f"--param: {error}") from None
    _require(math.isfinite(c.lr) and c.lr > 0, f"--lr must be a positive number, got {c.lr:g}")
    for key in ("width", "base_width", "steps", "global_batch", "seq_len", "devices", "num_nodes",
                "log_interval", "val_interval", "val_sequences", "checkpoint_interval"):  # fmt: skip
        _require(getattr(c, key) >= 1, f"--{key} must be at least 1, got {getattr(c, key)}")
    for key in ("n_layer", "head_size", "mlp_ratio", "vocab_size"):
        value = getattr(c.model, key)
        _require(value >= 1, f"--model.{key} must be at least 1, got {value}")
    _require(0 <= c.warmup_steps <= c.steps, f"--warmup_steps must be 0..steps ({c.steps}), got {c.warmup_steps}")
    _require(0 <= c.lr_min_ratio <= 1, f"--lr_min_ratio must be 0..1, got {c.lr_min_ratio:g}")
    _require(0 <= c.seed < 2**63, f"--seed must not be negative, got {c.seed}")
    _require(all(0 <= b < 1 for b in c.betas), f"--betas must be in [0, 1), got {list(c.betas)}")
    _require(c.eps >= 0, f"--eps must not be negative, got {c.eps:g}")
    assert c.weight_decay is not None
    _require(c.weight_decay >= 0, f"--weight_decay must not be negative, got {c.weight_decay:g}")
    _require(c.grad_clip is None or c.grad_clip > 0, f"--grad_clip must be positive or null, got {c.grad_clip}")
    _require(0 < c.data.validation_fraction < 1, "--data.validation_fraction must be between 0 and 1")
    _require(c.data.format != "text" or bool(c.data.path), "--data.format text needs --data.path")
    _require(re.fullmatch(r"[\w.+-]+", c.study) is not None, f"--study must be a plain folder name, got {c.study!r}")

    head = c.model.head_size
    if c.width % head:
        below, above = c.width // head * head, (c.width // head + 1) * head
        near = f"{below} or {above}" if below else f"{above}"
        raise RequestError(f"--width {c.width} is not divisible by the head size {head}: use {near}")
    _require(c.base_width % head == 0, f"--base_width {c.base_width} is not divisible by the head size {head}")
    heads, kv = c.width // head, c.model.kv_heads
    if kv != "all":
        _require(kv >= 1, f"--model.kv_heads must be at least 1 or all, got {kv}")
        _require(
            heads % min(kv, heads) == 0, f"--width {c.width} has {heads} heads, not divisible by --model.kv_heads {kv}"
        )
    assert c.micro_batch is not None
    _require(c.micro_batch >= 1, f"--micro_batch must be at least 1, got {c.micro_batch}")
    _require(
        c.global_batch % (c.micro_batch * c.world_size) == 0,
        f"--global_batch {c.global_batch} is not a multiple of micro_batch {c.micro_batch} x {c.world_size} processes",
    )
