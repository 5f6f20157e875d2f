"""Every setting of a run, with its default, as frozen dataclasses. `recipes` reads them from YAML and flags."""

import dataclasses
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline import identity
from pipeline.errors import RequestError
from pipeline.parameterization.rules import EmbeddingInit, Role, Width
from pipeline.validation import validate

__all__ = ["DataConfig", "DiagnosticsConfig", "ModelConfig", "MultConfig", "RunConfig"]


@dataclass(frozen=True)
class ModelConfig:
    """Architecture at every width; only the width is scaled. Beside kind, n_layer and activation all is about GPTs."""

    kind: Literal["gpt", "mlp"] = "gpt"
    """gpt: litgpt's GPT on text. mlp: bias-free multilayer perceptron on vectors (paper, D.1)."""
    n_layer: int = 6
    """GPT: transformer blocks. MLP: weight matrices, 2 to 10."""
    activation: Literal["relu", "linear"] = "relu"
    """MLP: activation function."""
    name: str = "pythia-14m"
    """Any architecture that litgpt names; its width, depth and vocabulary are replaced by the settings here."""
    head_size: int = 32
    """Dimension of one attention head, the same at every width; the number of heads is width / head_size."""
    kv_heads: int | Literal["all"] = "all"
    """Key/value heads: all (one per query head) or a fixed number (the published runs: 4). Never more than heads."""
    mlp_ratio: float | None = None
    """Hidden size of the MLP blocks over the width; null: that of the named architecture (Pythia: 4)."""
    vocab_size: int = 50304
    """Rows of the embedding and of the readout. A tokenizer trained by the pipeline gets this many entries."""
    qk_norm: bool = True
    """Normalize queries and keys."""
    train_norms: bool = True
    """Train the gains and biases of all normalization layers; false fixes them at initialization."""


@dataclass(frozen=True)
class MultConfig:
    """Constant multipliers per role, the same at every width, on initial stds and learning rates."""

    input_init: float = 1.0
    """Embedding or first layer: initial std."""
    hidden_init: float = 1.0
    """Hidden matrices: initial std."""
    output_init: float = 1.0
    """Readout: initial std."""
    input_lr: float = 1.0
    """Embedding or first layer: learning rate."""
    vector_lr: float = 1.0
    """Gains and biases whose length grows with the width: learning rate."""
    hidden_lr: float = 1.0
    """Hidden matrices: learning rate."""
    output_lr: float = 1.0
    """Readout: learning rate."""
    finite_lr: float = 1.0
    """Tensors of which no dimension grows with the width: learning rate."""

    def init(self, role: Role) -> float:
        return float(getattr(self, f"{role}_init", 1.0))

    def lr(self, role: Role) -> float:
        return float(getattr(self, f"{role}_lr"))


@dataclass(frozen=True)
class DataConfig:
    """Where examples come from; for text, how it becomes tokens."""

    name: str = "sotu"
    """Name of the source, shown in reports and used for its cache folder."""
    format: Literal["sotu", "text", "shards", "digits", "multi_index"] = "sotu"
    """Text: sotu (speeches of the installed package of that name), text (files of path or repo, read by their suffix:
    .parquet, .jsonl, else UTF-8 documents parted by blank lines; .zst and .gz are unpacked), or shards (a folder that
    was prepared before). Vectors with classes: digits (scikit-learn's), or multi_index (generated; paper, D.2)."""
    path: str = ""
    """File or glob to read (text), or the prepared folder (shards)."""
    repo: str = ""
    """Dataset repository on the Hugging Face hub, read instead of path."""
    revision: str = "main"
    """Branch, tag or commit of repo; resolved once and recorded."""
    files: str = "**"
    """Glob of the files of repo that hold the text."""
    text_field: str = "text"
    """Field or column that holds a document's text, in .jsonl and .parquet."""
    file_seed: int = 0
    """Seed of the order in which the files of repo are taken."""
    tokens: int | str | None = None
    """Prepared: training tokens to keep, such as 1.4B, cut at a document's end; null: all. Streaming has no such end."""
    tokenizer: str = "bpe"
    """bpe: a byte-level BPE of model.vocab_size entries, trained on training documents; or a tokenizer.json; or a model
    repository on the hub, such as EleutherAI/pythia-14m, that has one."""
    validation_fraction: float = 0.05
    """Share of the documents, chosen by their hash, kept for validation."""
    mode: Literal["prepared", "stream"] = "prepared"
    """prepared: training reads token shards. stream: it reads and tokenizes the files while it goes."""
    lanes: int = 8
    """Streaming: parallel streams of documents, a divisor of global_batch; fixed, so that the order of samples does not
    depend on the number of devices, which divides it."""
    era: int = 512
    """Streaming: windows that a lane reads ahead and shuffles as one."""
    workers: int = 0
    """Processes that read and tokenize; 0: in preparing one per core, in streaming one per device."""
    write_through: str = ""
    """Streaming: folder for token shards of what was read, which --data FOLDER can train on later."""
    stall_seconds: float = 600.0
    """Streaming: a run ends when its source gives nothing for so long."""
    license: str = ""
    """Licence of the text, carried into the manifest."""
    citation: str = ""
    """Whom to cite for the text, carried into the manifest."""

    def __post_init__(self) -> None:
        if isinstance(self.tokens, str):
            object.__setattr__(self, "tokens", _amount("data.tokens", self.tokens))

    @property
    def dimensions(self) -> tuple[int, int] | None:
        """Input dimension and number of classes of data that are vectors; None for text."""
        return {"digits": (64, 10), "multi_index": (100, 2)}.get(self.format)


@dataclass(frozen=True)
class DiagnosticsConfig:
    """What is measured inside the model while it trains (refined coordinate check, spectra, sharpness); it never changes
    the run."""

    interval: int = 0
    """Steps between coordinate checks; the last step is always checked. 0: none."""
    first: int = 0
    """Check also after each of the first so many steps."""
    probe: int = 8
    """Sequences or examples that the checks run on: the first ones of the training order (streaming: of the validation
    split), always the same."""
    reference: Literal["init", "previous"] = "init"
    """What weights and activations are compared with: those at initialization, or one optimizer step before."""
    initial: Literal["keep", "regenerate"] = "keep"
    """Initial weights: kept in CPU memory, or drawn again from the seed, tensor by tensor, at every check."""
    spectra: bool = False
    """Also operator norms, alignment ratios and update ranks."""
    sharpness_interval: int = 0
    """Steps between measurements of the sharpness; the last step is always measured. 0: none."""
    sharpness_probe: int = 8
    """Sequences or examples of the training loss whose Hessian is measured."""
    eigenvalues: int = 1
    """Largest eigenvalues of the Hessian to record."""
    ntk: bool = False
    """Record the largest eigenvalue of the neural tangent kernel with every sharpness."""

    def checks(self, step: int, steps: int) -> bool:
        """Whether a coordinate check follows step `step` of `steps`."""
        return 1 <= step <= self.first or (self.interval > 0 and (step % self.interval == 0 or step == steps))

    def measures_sharpness(self, step: int, steps: int) -> bool:
        """Whether the sharpness is measured after step `step` of `steps`."""
        every = self.sharpness_interval
        return every > 0 and (step % every == 0 or step == steps)

    @property
    def on(self) -> bool:
        """Whether there are coordinate checks at all."""
        return self.interval > 0 or self.first > 0


@dataclass(frozen=True)
class RunConfig:
    """One training run."""

    width: int = 256
    """Width n of the model."""
    param: str = "sp"
    """Parameterization, an entry of pipeline/parameterization/rules.py: sp, mup, ..."""
    lr: float = 3e-3
    """Peak learning rate of the base group, before any width factor of the parameterization."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """Optimizer."""
    loss: Literal["cross_entropy", "mse", "softmax_mse"] = "cross_entropy"
    """Training loss: cross-entropy, or the squared distance of the logits (mse) or of their softmax (softmax_mse) to the
    one-hot target, summed over the outputs."""
    z_loss: float = 0.0
    """Weight of the squared log-partition function that is added to the loss."""
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
    micro_batch: int | Literal["auto"] | None = None
    """Sequences per forward pass on one device, gradients accumulate in between; null: global_batch / devices; auto: the
    most that fit into memory, found when the run first starts and recorded in its config.yaml."""
    seq_len: int = 512
    """Tokens per sequence."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Lightning precision: fp32, or bf16 autocast over fp32 weights."""
    devices: int = 1
    """Accelerators (or CPU processes) per node."""
    num_nodes: int = 1
    """Nodes."""
    strategy: Literal["auto", "ddp", "fsdp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3"] = "auto"
    """How the processes share the work: ddp (auto, where there are several), FSDP2, or DeepSpeed's ZeRO at stage 1-3."""
    base_width: int = 256
    """Width n_base at which all parameterizations are the same model and take the same steps."""
    embedding_init: EmbeddingInit = "neox"
    """neox: under SP the embedding's std shrinks like n^-1/2, as in the published runs. constant: it does not."""
    readout_init: Literal["standard", "zero"] = "standard"
    """Initial readout weight: drawn by the parameterization's rule, or zero (the published muP runs)."""
    depth_scaling: Literal["none", "sqrt"] = "none"
    """sqrt: residual branches scaled by (n_layer / base_depth)^-1/2 with the matching learning rate; GPTs only."""
    base_depth: int = 6
    """Depth at which depth_scaling changes nothing."""
    weight_decay: float | None = None
    """Decoupled weight decay at the base width, on every tensor; null: 0.1 under AdamW, 0 under Adam and SGD."""
    weight_decay_scaling: Literal["inverse_lr", "constant"] = "inverse_lr"
    """inverse_lr: decay is divided by the width factor of the learning rate, so lr * decay stays as at base width."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Betas of Adam and AdamW."""
    eps: float = 1e-12
    """Epsilon of Adam and AdamW."""
    momentum: float = 0.0
    """Momentum of SGD."""
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
    """End a run as aborted once so many records in a row, after warm-up, have a loss 10 % above the first one's and that of
    guessing: it has left the stable region; null: never."""
    stall_minutes: float | None = 30.0
    """End a run, and say where it hangs, when it has taken no step for so long; null: wait for ever."""
    study: str = "default"
    """Study that the run belongs to: its folder under out, its group in W&B."""
    out: str = "runs"
    """Folder of all studies."""
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Mirror to W&B; auto: online where logged in, else disabled."""
    model: ModelConfig = ModelConfig()
    mult: MultConfig = MultConfig()
    data: DataConfig = DataConfig()
    diagnostics: DiagnosticsConfig = DiagnosticsConfig()

    def __post_init__(self) -> None:
        if self.weight_decay is None:
            object.__setattr__(self, "weight_decay", 0.1 if self.optimizer == "adamw" else 0.0)
        if self.micro_batch is None:
            object.__setattr__(self, "micro_batch", max(1, self.global_batch // self.world_size))
        validate(self)

    @property
    def world_size(self) -> int:
        return self.devices * self.num_nodes

    @property
    def accumulation(self) -> int:
        """Forward passes per optimizer step on one device, where micro_batch is a number."""
        assert isinstance(self.micro_batch, int)
        return self.global_batch // (self.micro_batch * self.world_size)

    @property
    def tokens_per_step(self) -> int:
        """Predictions that a step learns from: tokens of text, or examples."""
        return self.global_batch * (1 if self.data.dimensions else self.seq_len)

    @property
    def total_tokens(self) -> int:
        return self.steps * self.tokens_per_step

    @property
    def is_classification(self) -> bool:
        """Few classes, of which accuracy says something; language models are not."""
        return self.data.dimensions is not None

    @property
    def d_out(self) -> int:
        """Output dimension: the vocabulary, or the number of classes."""
        return self.data.dimensions[1] if self.data.dimensions else self.model.vocab_size

    @property
    def width_step(self) -> int:
        """Every width is a multiple of it: GPTs have whole heads."""
        return 1 if self.data.dimensions else self.model.head_size

    @property
    def width_point(self) -> Width:
        return Width(self.width, self.base_width, self.d_out)

    @property
    def run_name(self) -> str:
        """Readable and unique: ``sp-adamw-w1024-lr3e-3-s0-<8 hex of the config hash>``.

        Where the study holds the run under the hash that it had before idle settings were left out, that is its name.
        """
        lr = re.sub(r"e([+-])0*", lambda e: "e" + e[1].strip("+"), f"{self.lr:.12e}".replace("e+00", ""))
        lr = re.sub(r"\.?0+(?=e|$)", "", lr)
        point = f"{self.param}-{self.optimizer}-w{self.width}-lr{lr}-s{self.seed}"
        name, older = f"{point}-{config_hash(self)}", f"{point}-{older_hash(self)}"
        return older if older != name and (Path(self.out) / self.study / older).is_dir() else name

    @property
    def run_dir(self) -> Path:
        return Path(self.out) / self.study / self.run_name


def run_settings(config: RunConfig, of: type[RunConfig] = RunConfig) -> dict[str, Any]:
    """The settings as plain nested values, in the order of the fields `of` the class: a run's, without a study's grid."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(of)}


def counted_settings(config: RunConfig) -> dict[str, Any]:
    """Flat ``{"model.n_layer": 6, ...}`` of every setting that may change the mathematics of a run (`identity.counted`)."""
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


def _flat(config: RunConfig) -> dict[str, Any]:
    flat = {}
    for key, value in run_settings(config).items():
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": v for inner, v in value.items()})
        else:
            flat[key] = value
    return flat


def _amount(key: str, text: str) -> int:
    """``"1.4B"`` -> 1 400 000 000; also K, M and T, plain numbers and 1.4e9."""
    number = re.fullmatch(r"\s*([\d_.]+(?:e\+?\d+)?)\s*([KMBT]?)\s*", text, re.IGNORECASE)
    try:
        if number is None:
            raise ValueError
        value = float(number[1]) * {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[number[2].upper()]
    except ValueError:
        raise RequestError(f"--{key}: expected a number such as 1.4B or 300M, got {text!r}") from None
    return round(value)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return list(value) if isinstance(value, tuple) else value
