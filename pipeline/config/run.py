"""The settings of a run, with their defaults, as frozen dataclasses. `recipes` reads them from YAML and flags.

Long: every setting of a run stands here with its meaning.
"""

import dataclasses
import functools
import math
import operator
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pipeline import identity
from pipeline.config.branching import shared_steps
from pipeline.config.data import DataConfig
from pipeline.config.optimization import check_optimization
from pipeline.config.sections import DiagnosticsConfig, ModelConfig, MultConfig, WandbConfig
from pipeline.entries.kinds import KINDS, Kind
from pipeline.entries.last_batches import LAST_BATCHES, steps_of
from pipeline.entries.losses import LOSSES
from pipeline.entries.mirrors import MIRRORS
from pipeline.entries.optimizers import MUON_SCALES, OPTIMIZERS
from pipeline.entries.schedules import DECAY_SHAPES, SCHEDULES
from pipeline.errors import RequestError, plain_name, require
from pipeline.parameterization import rules
from pipeline.parameterization.axes import BATCH_RULES, STEPS_RULES
from pipeline.parameterization.depth import DEPTH_RULES
from pipeline.parameterization.rules import EmbeddingInit, Width

if TYPE_CHECKING:
    OptimizerName: TypeAlias = str
    LossName: TypeAlias = str
    ScheduleName: TypeAlias = str
    LastBatchName: TypeAlias = str
    MirrorName: TypeAlias = str
    DecayShapeName: TypeAlias = str
    MuonScaleName: TypeAlias = str
    DepthScalingName: TypeAlias = str
    BatchScalingName: TypeAlias = str
    StepsScalingName: TypeAlias = str
else:
    OptimizerName, LossName, ScheduleName, LastBatchName, MirrorName = (
        Literal[tuple(table)] for table in (OPTIMIZERS, LOSSES, SCHEDULES, LAST_BATCHES, MIRRORS)
    )
    DecayShapeName, MuonScaleName = (Literal[tuple(table)] for table in (DECAY_SHAPES, MUON_SCALES))
    DepthScalingName, BatchScalingName, StepsScalingName = (
        Literal[("none", *table)] for table in (DEPTH_RULES, BATCH_RULES, STEPS_RULES)
    )


@dataclass(frozen=True)
class RunConfig:
    """One training run."""

    width: int = 256
    """Width n of the model."""
    param: str = "sp"
    """Parameterization: sp, mup, or another entry of pipeline/parameterization/rules.py."""
    lr: float = 3e-3
    """Peak learning rate of the base group, before any width factor of the parameterization."""
    optimizer: OptimizerName = "adamw"
    """Optimizer."""
    loss: LossName = "cross_entropy"
    """Training loss: cross-entropy; the squared distance of the logits (mse) or of their softmax (softmax_mse) to the
    one-hot target, summed over the outputs; its mean over the outputs (mse_mean: torch's MSELoss, the published MLPs');
    that of one output to the target's real value (mse_scalar: the published multi-index runs'); or softmax_mse summed
    over all positions of a micro_batch (softmax_mse_sum: the published GPTs')."""
    z_loss: float = 0.0
    """Weight of the squared log-partition function that is added to the loss."""
    seed: int = 0
    """Seed of the initialization and of the order of the data."""
    steps: int = 1000
    """Optimizer steps."""
    epochs: int | None = None
    """Instead of steps: passes over the training examples, from which the steps follow; of vectors alone."""
    last_batch: LastBatchName = "full"
    """What an epoch ends with, where global_batch does not divide it: a full batch that reads on in the next (full), or
    a batch of the examples that are left (short: 157 steps of 64 for 10 000, the last of 16; of vectors alone)."""
    stop_after: int | None = None
    """End training after so many steps of the schedule, which stays laid out for `steps`; null: after all of them."""
    branch_steps: tuple[int, ...] = ()
    """Steps of shorter runs, otherwise alike, whose part before their decay this one trains for them: it leaves each
    there as an interrupted run, for train to finish bit for bit; of schedules with a constant part. A sweep asks for
    this itself."""
    warmup_steps: int = 100
    """Steps of warm-up."""
    schedule: ScheduleName = "cosine"
    """Learning rate over steps after the linear warm-up: cosine or linear decay to lr_min_ratio * lr, constant, or
    constant with a decay at the end (wsd)."""
    lr_min_ratio: float = 0.1
    """Learning rate at the last step over the peak."""
    decay_fraction: float = 0.1
    """Share of all steps over which wsd decays, at the end."""
    decay_shape: DecayShapeName = "linear"
    """How wsd decays over x from 0 to 1: linear, or as 1 - sqrt(x)."""
    global_batch: int = 256
    """Sequences per optimizer step over all devices."""
    micro_batch: int | Literal["auto"] | None = None
    """Sequences per forward pass on one device, gradients accumulate in between; null: global_batch / devices; auto:
    the most that fit into memory, found when the run first starts and recorded in its config.yaml."""
    seq_len: int = 512
    """Tokens per sequence."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Lightning precision: fp32, or bf16 autocast over fp32 weights."""
    devices: int = 1
    """Accelerators (or CPU processes) per node."""
    num_nodes: int = 1
    """Nodes."""
    strategy: Literal["auto", "ddp", "fsdp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3"] = "auto"
    """How the processes share the work: ddp (auto, where there are several), FSDP2, or DeepSpeed's ZeRO at stage
    1-3."""
    base_width: int = 256
    """Width n_base at which all parameterizations are the same model and take the same steps."""
    embedding_init: EmbeddingInit = "neox"
    """neox: under SP the embedding's std shrinks like n^-1/2, as in the published runs. constant: it does not.
    neox_always: GPTs only; it does under every parameterization, as in the published SGD runs of SP-full-align."""
    readout_init: Literal["standard", "zero"] = "standard"
    """Initial readout weight: drawn by the parameterization's rule, or zero (the published muP runs)."""
    depth_scaling: DepthScalingName = "none"
    """sqrt: residual branches scaled by (n_layer / base_depth)^-1/2 with the matching learning rate. completep: by its
    inverse, with the matching learning rate and eps."""
    base_depth: int = 6
    """Depth at which depth_scaling changes nothing."""
    weight_decay: float | None = None
    """Decoupled weight decay at the base width, on every tensor; null: 0.1 under AdamW and Muon, else 0."""
    weight_decay_scaling: Literal["inverse_lr", "constant", "independent", "timescale"] = "inverse_lr"
    """inverse_lr: decay is divided by the width factor of the learning rate, so lr * decay stays as at base width.
    independent: by all of the learning rate, so that weight_decay is what a step at the peak takes off a weight.
    timescale: so that lr * decay * steps stays as at base_steps."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Betas of Adam and AdamW."""
    eps: float = 1e-12
    """Epsilon of Adam and AdamW."""
    eps_scaling: Literal["none", "width"] = "none"
    """width: eps follows each tensor's gradient over widths."""
    momentum: float = 0.0
    """Momentum of SGD."""
    muon_scale: MuonScaleName = "spectral"
    """Size of Muon's updates of a matrix (out, in), over the learning rate: operator norm sqrt(out / in) (spectral) or
    sqrt(max(1, out / in)) (original, torch's), or entries of the size of AdamW's (match_rms)."""
    muon_momentum: float = 0.95
    """Momentum of Muon, Nesterov's."""
    batch_scaling: BatchScalingName = "none"
    """What goes with global_batch over base_batch. sqrt: learning rate with its root, 1 - beta2 and 1 / eps^2 like it.
    linear: learning rate like it. completedp, of Adam and AdamW: as sqrt, decay with its root too, 1 - beta1 like
    it."""
    base_batch: int | None = None
    """Batch at which batch_scaling changes nothing."""
    steps_scaling: StepsScalingName = "none"
    """What goes with tokens (steps * global_batch) over those of the base run. power: learning rate with their power
    steps_exponent. completedp: as under batch_scaling, with their inverse."""
    base_steps: int | None = None
    """Steps, at base_batch, at which steps_scaling and the decay's timescale change nothing."""
    steps_exponent: float = -0.3
    """Of the learning rate, under steps_scaling power."""
    grad_clip: float | None = 1.0
    """Largest global norm of the gradient; null: no clipping."""
    log_interval: int = 1
    """Steps between records of metrics.jsonl."""
    val_interval: int = 1000
    """Steps between validations; the last step is always validated."""
    val_sequences: int = 256
    """Sequences of the validation split that a validation reads, always the same ones."""
    checkpoint_interval: int = 1000
    """Steps between checkpoints; a killed run loses at most this many."""
    checkpoint_minutes: float | None = 30.0
    """Minutes between checkpoints, where checkpoint_interval takes longer; null: no clock."""
    keep_last: int = 2
    """Checkpoints to keep while a run goes: where the newest turns out damaged, the one before it is used."""
    keep_checkpoint: bool = True
    """Keep the last checkpoint of a finished run."""
    abort_after: int | None = None
    """End a run as aborted once so many records in a row, after warm-up, have a loss 10 % above the first one's and
    that of guessing: it has left the stable region; null: never."""
    stall_minutes: float | None = 30.0
    """End a run, and say where it hangs, when it has taken no step for so long; null: wait for ever."""
    study: str = "default"
    """Study that the run belongs to: its folder under out, its group in W&B."""
    out: str = "runs"
    """Folder of all studies."""
    mirrors: tuple[MirrorName, ...] = ()
    """Where else than in W&B records are repeated: tensorboard (into the run's folder), trackio; each is an extra."""
    wandb: WandbConfig = WandbConfig()
    model: ModelConfig = ModelConfig()
    mult: MultConfig = MultConfig()
    data: DataConfig = DataConfig()
    diagnostics: DiagnosticsConfig = DiagnosticsConfig()

    def __post_init__(self) -> None:
        if isinstance(self.wandb, str):  # the mode alone, as by --wandb, and in runs from before there was more
            object.__setattr__(self, "wandb", WandbConfig(self.wandb))  # type: ignore[arg-type]
        self._check_names()
        self.data.check()
        object.__setattr__(self, "data", self.data.found())
        if self.epochs is not None:
            object.__setattr__(self, "steps", self._steps_of_epochs())
        if self.embedding_init == "neox" and not self.kind.embeds:
            object.__setattr__(self, "embedding_init", "constant")
        if self.weight_decay is None:
            require(
                self.weight_decay_scaling != "independent",
                "--weight_decay_scaling independent: give --weight_decay, what a step at the peak learning rate takes "
                "off a weight, such as 3e-4",
            )
            object.__setattr__(self, "weight_decay", OPTIMIZERS[self.optimizer].weight_decay)
        if self.micro_batch is None:
            object.__setattr__(self, "micro_batch", max(1, self.global_batch // self.world_size))
        self._check()

    @property
    def world_size(self) -> int:
        return self.devices * self.num_nodes

    @property
    def accumulation(self) -> int:
        """Forward passes per optimizer step on one device, where micro_batch is a number."""
        assert isinstance(self.micro_batch, int)
        return self.global_batch // (self.micro_batch * self.world_size)

    @property
    def kind(self) -> Kind:
        """The entry of the model's kind."""
        return KINDS[self.model.kind]

    @property
    def tokens_per_step(self) -> int:
        """Predictions that a step learns from: tokens of text, or examples."""
        return self.global_batch * (1 if self.data.vectors else self.seq_len)

    def tokens_after(self, steps: int) -> int:
        """What so many steps learn from."""
        vectors = self.data.vectors
        if vectors is None:
            return steps * self.tokens_per_step
        return LAST_BATCHES[self.last_batch](steps, vectors.n_train, self.global_batch)

    @property
    def last_step(self) -> int:
        """After which training ends."""
        return self.steps if self.stop_after is None else self.stop_after

    def branch(self, steps: int) -> "RunConfig":
        """The same run of so many steps, which leaves none."""
        return dataclasses.replace(self, steps=steps, epochs=None, branch_steps=())

    @property
    def total_tokens(self) -> int:
        return self.tokens_after(self.last_step)

    def _steps_of_epochs(self) -> int:
        vectors = self.data.vectors
        require(vectors, f"--epochs is for vectors with classes, and {self.data.name} is text: give --steps")
        assert vectors is not None
        assert self.epochs is not None
        for key in ("epochs", "global_batch"):
            require(getattr(self, key) >= 1, f"--{key} must be at least 1, got {getattr(self, key)}")
        return steps_of(self.epochs, self.last_batch, vectors.n_train, self.global_batch)

    @property
    def n_classes(self) -> int | None:
        """Few classes, of which accuracy says something; None: a language model."""
        return self.data.vectors.n_classes if self.data.vectors else None

    @property
    def d_out(self) -> int:
        """Output dimension: the vocabulary, or the number of classes; 1 where a real value is learned."""
        return 1 if LOSSES[self.loss].scalar else self.n_classes or self.model.vocab_size

    @property
    def loss_scale(self) -> float:
        """What the loss multiplies the mean over tokens or examples by."""
        return LOSSES[self.loss].scale(self)

    @property
    def width_step(self) -> int:
        """Every width is a multiple of it."""
        return self.kind.width_step(self)

    @property
    def width_point(self) -> Width:
        return Width(self.width, self.base_width, self.d_out)

    @property
    def run_name(self) -> str:
        """Readable and unique: ``sp-adamw-w1024-lr3e-3-s0-<8 hex of the config hash>``.

        Where the study holds the run under the hash that it had before idle settings were left out, that is its name.
        """
        name, older = f"{self._point}-{config_hash(self)}", f"{self._point}-{older_hash(self)}"
        return older if older != name and (self.study_dir / older).is_dir() else name

    @property
    def _point(self) -> str:
        mantissa, _, power = f"{self.lr:.12e}".partition("e")
        lr = mantissa.rstrip("0").rstrip(".") + (f"e{int(power)}" if int(power) else "")
        return f"{self.param}-{self.optimizer}-w{self.width}-lr{lr}-s{self.seed}"

    def contradiction(self, name: str) -> str | None:
        """Why `name`, if it has the form of `run_name`, cannot be this run's. Settings that name files are known by
        what these held, which nobody may have any more."""
        if (form := re.fullmatch(r"(\w+-\w+-w\d+-lr[\d.e-]+-s\d+)-([0-9a-f]{8})", name)) is None:
            return None
        if form[1] != self._point:
            return f"it says {self._point}"
        if self.data.path or self.data.tokenizer.endswith(".json"):
            return None
        own = config_hash(self)
        return None if form[2] == own or form[2] == older_hash(self) else f"its settings have the hash {own}"

    @property
    def study_dir(self) -> Path:
        return Path(self.out) / self.study

    @property
    def run_dir(self) -> Path:
        return self.study_dir / self.run_name

    def _check_names(self) -> None:
        """Of entries: flags are checked by their type before, recorded settings only here."""
        tables: dict[str, Collection[str]] = {
            "optimizer": OPTIMIZERS, "loss": LOSSES, "schedule": SCHEDULES, "last_batch": LAST_BATCHES,
            "decay_shape": DECAY_SHAPES, "muon_scale": MUON_SCALES, "depth_scaling": ("none", *DEPTH_RULES),
            "batch_scaling": ("none", *BATCH_RULES), "steps_scaling": ("none", *STEPS_RULES),
            "weight_decay_scaling": ("inverse_lr", "constant", "independent", "timescale"),
            "eps_scaling": ("none", "width"),
        }  # fmt: skip
        for key, names in tables.items():
            require(getattr(self, key) in names, f"--{key}: expected {' or '.join(names)}, got {getattr(self, key)!r}")
        for name in self.mirrors:
            require(name in MIRRORS, f"--mirrors: expected {' or '.join(MIRRORS)}, got {name!r}")
        require(self.model.kind in KINDS, f"--model.kind: expected {' or '.join(KINDS)}, got {self.model.kind!r}")

    def _check(self) -> None:
        """Raises `RequestError` for the first setting that cannot be."""
        try:
            rules.get(self.param)
        except ValueError as error:
            raise RequestError(f"--param: {error}") from None
        require(math.isfinite(self.lr) and self.lr > 0, f"--lr must be a positive number, got {self.lr:g}")
        for key in ("width", "base_width", "base_depth", "steps", "global_batch", "seq_len", "devices", "num_nodes",
                    "log_interval", "val_interval", "val_sequences", "checkpoint_interval", "keep_last"):  # fmt: skip
            require(getattr(self, key) >= 1, f"--{key} must be at least 1, got {getattr(self, key)}")
        for key, value in _flat(self).items():  # beyond it numpy and tokenizers fail, each in its own words
            if isinstance(value, int) and value > 10**9 and key not in ("seed", "data.tokens", "data.max_document"):
                raise RequestError(f"--{key} must be at most {10**9}, got {value}")
        require(
            0 <= self.warmup_steps <= self.steps,
            f"--warmup_steps must be 0..steps ({self.steps}), got {self.warmup_steps}",
        )
        require(
            self.stop_after is None or 1 <= self.stop_after <= self.steps,
            f"--stop_after must be 1..steps ({self.steps}) or null, got {self.stop_after}",
        )
        for steps in self.branch_steps:
            require(
                shared_steps(self, steps) > 0,
                f"--branch_steps {steps}: shares nothing with this run of {self.steps} steps, which takes fewer steps, "
                "--schedule wsd or constant, a decay that begins after warm-up, and no --stop_after or rule of "
                "the horizon",
            )
        require(0 <= self.lr_min_ratio <= 1, f"--lr_min_ratio must be 0..1, got {self.lr_min_ratio:g}")
        require(0 <= self.seed < 2**63, f"--seed must not be negative, got {self.seed}")
        for key in ("eps", "z_loss", "weight_decay"):
            require(getattr(self, key) >= 0, f"--{key} must not be negative, got {getattr(self, key):g}")
        for key in ("grad_clip", "checkpoint_minutes", "stall_minutes"):
            value = getattr(self, key)
            require(value is None or value > 0, f"--{key} must be positive or null, got {value}")
        minutes = self.stall_minutes
        require(minutes is None or minutes <= 1e8, f"--stall_minutes must be at most 1e8, or null, got {minutes}")
        self.mult.check()
        require(
            self.abort_after is None or self.abort_after >= 1,
            f"--abort_after must be at least 1 or null, got {self.abort_after}",
        )
        require(
            plain_name(self.study) and len(self.study.encode()) <= 200,
            f"--study must be a plain folder name of at most 200 bytes, got {self.study!r}",
        )
        check_optimization(self)
        self._check_data()
        self._check_loss()
        self._check_model()
        self.diagnostics.check()
        self.wandb.check()
        self._check_processes()

    def _check_data(self) -> None:
        if self.data.mode == "stream":
            d = self.data
            require(
                self.global_batch % d.lanes == 0,
                f"--data.lanes {d.lanes} must divide --global_batch {self.global_batch}",
            )
            require(
                d.lanes % self.world_size == 0,
                f"--data.lanes {d.lanes} is not a multiple of the {self.world_size} processes that train",
            )
        takes = "vectors" if self.data.vectors else "text"
        wanted = {kind.name: kind.example for kind in KINDS.values() if kind.takes == takes}
        require(
            self.model.kind in wanted,
            f"--data {self.data.name} is for --model.kind {' or '.join(wanted)}, not {self.model.kind}: such as "
            f"--config {' or '.join(wanted.values())}",
        )
        vectors = self.data.vectors
        require(self.last_batch == "full" or vectors, f"--last_batch {self.last_batch} is for vectors with classes")
        if vectors and self.last_batch != "full" and vectors.n_train % self.global_batch:
            require(  # else ranks or passes would have shares of different size
                self.micro_batch == self.global_batch,
                f"--last_batch {self.last_batch} needs one process, and --micro_batch {self.global_batch}: all at once",
            )

    def _check_loss(self) -> None:
        entry, vectors = LOSSES[self.loss], self.data.vectors
        if entry.scalar:
            require(
                vectors and vectors.values,
                f"--loss {self.loss} needs data with real targets, such as multi-index: {self.data.name} has classes",
            )
            require(not self.z_loss, f"--z_loss is for losses of several outputs, not for {self.loss}")
            require(not self.data.label_noise, f"--data.label_noise replaces classes: --loss {self.loss} reads none")
        if entry.of_micro_batch:
            require(
                self.micro_batch != "auto",
                f"--loss {self.loss} is a sum over the micro-batch: give --micro_batch a number (published: 64)",
            )
            require(self.last_batch == "full", f"--loss {self.loss} needs --last_batch full, batches of one size")

    def _check_model(self) -> None:
        kind, default = self.kind, ModelConfig()
        kind.check(self)
        for name in _names(ModelConfig):
            if name not in {*kind.settings, "kind"} and getattr(self.model, name) != getattr(default, name):
                users = [other.plural for other in KINDS.values() if name in other.settings]
                raise RequestError(f"--model.{name} is for {' and '.join(users)}, not for {kind.singular}")

    def _check_processes(self) -> None:
        share, rest = divmod(self.global_batch, self.world_size)
        near = " or ".join(str(part * self.world_size) for part in (share, share + 1) if part)
        require(
            not rest,
            f"--global_batch {self.global_batch} is not a multiple of the {self.world_size} processes that train: "
            f"use {near}",
        )
        if self.micro_batch != "auto":
            assert self.micro_batch is not None
            require(self.micro_batch >= 1, f"--micro_batch must be at least 1, got {self.micro_batch}")
            whose = f"{share} sequences of a process" if self.world_size > 1 else f"--global_batch {share}"
            require(share % self.micro_batch == 0, f"--micro_batch {self.micro_batch} does not divide the {whose}")


def run_settings(config: RunConfig, of: type[RunConfig] = RunConfig) -> dict[str, Any]:
    """The settings as plain nested values, in the order of the fields `of` the class: a run's, without a study's
    grid. Of steps and epochs, which exclude each other, a run's say the steps, and a study's what was asked for."""
    settings = {name: _plain(getattr(config, name)) for name in _names(of)}  # type: ignore[arg-type]  # a class is hashable
    if of is RunConfig:
        settings["epochs"] = None
    elif config.epochs is not None:
        del settings["steps"]
    return settings


def counted_settings(config: RunConfig) -> dict[str, Any]:
    """Flat ``{"model.n_layer": 6, ...}`` of every setting that may change the mathematics of a run
    (`identity.counted`)."""
    return identity.counted(_flat(config), default_settings())


def config_hash(config: RunConfig) -> str:
    """8 hex digits over what changes the mathematics of the run (`identity.config_hash`)."""
    return identity.config_hash(_flat(config), default_settings())


def older_hash(config: RunConfig) -> str:
    """What `config_hash` was before it left out settings that change nothing (`identity.older_hash`)."""
    return identity.older_hash(_flat(config), default_settings())


@functools.cache
def default_settings() -> dict[str, Any]:
    """Flat, of every setting."""
    return _flat(RunConfig())


@functools.cache
def _names(of: Any) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(of))


_last: tuple[RunConfig | None, dict[str, Any]] = (None, {})


def _flat(config: RunConfig) -> dict[str, Any]:
    """`run_settings`, flat, not to be changed; made once for the same config, which is asked for it four times where
    very many are read."""
    global _last
    known, flat = _last
    if known is not config:
        names, values = _leaves()
        flat = {k: list(v) if type(v) is tuple else v for k, v in zip(names, values(config), strict=True)}
        flat["epochs"] = None
        _last = config, flat
    return flat


@functools.cache
def _leaves() -> tuple[list[str], Callable[[RunConfig], tuple[Any, ...]]]:
    """The dotted names of all settings, and what gets their values."""
    names = []
    for f in dataclasses.fields(RunConfig):
        section = type(f.default)
        names += [f"{f.name}.{inner}" for inner in _names(section)] if dataclasses.is_dataclass(section) else [f.name]
    return names, operator.attrgetter(*names)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {name: _plain(getattr(value, name)) for name in _names(type(value))}  # type: ignore[arg-type]
    return list(value) if isinstance(value, tuple) else value
