"""The sections of a run's settings: model, multipliers, diagnostics and W&B, each of which checks itself."""

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from pipeline.entries.kinds import KINDS
from pipeline.errors import require
from pipeline.parameterization.rules import Role

if TYPE_CHECKING:
    KindName: TypeAlias = str
else:
    KindName = Literal[tuple(KINDS)]


@dataclass(frozen=True)
class ModelConfig:
    """Architecture at every width; only the width is scaled. What a kind does not use is refused."""

    kind: KindName = "gpt"
    """gpt: litgpt's GPT on text. mlp: multilayer perceptron on vectors (paper, D.1)."""
    n_layer: int = 6
    """GPT: transformer blocks. MLP: weight matrices, 2 to 10."""
    activation: Literal["relu", "linear"] = "relu"
    """MLP: activation function."""
    norm: Literal["own", "rmsnorm", "layernorm"] = "own"
    """Normalization layers. own: those of the GPT's named architecture; none in an MLP. rmsnorm, layernorm: in a GPT
    instead of them; in an MLP between each layer and its activation."""
    train: Literal["all", "readout", "no_input"] = "all"
    """What is trained. readout: the readout alone, on random features. no_input: all but the embedding or first
    layer."""
    bias: bool = False
    """MLP: layers and readout have biases."""
    residual: bool = False
    """MLP: hidden layers add to their input: h + W act(norm(h)), where h comes before norm and activation."""
    logit_norm: Literal["none", "layernorm"] = "none"
    """MLP: the loss sees each example's logits normalized over the outputs, without gains and biases (paper, F.17)."""
    name: str = "pythia-14m"
    """Any architecture that litgpt names, such as Llama-3.2-1B: its norms, MLP, rotation and biases are kept; width,
    depth, heads, key/value heads, qk-norm, vocabulary and context are the settings here (recipes llama and qwen3 have
    them as these models do). --dry_run says what is kept and what is replaced."""
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
    qk_norm_role: Literal["finite", "vector"] = "finite"
    """Rule of the gains and biases of norms of single heads, whose size is fixed. finite: nothing scales. vector: as
    those of all other norms (the published runs)."""
    tie_embeddings: bool = False
    """Embedding and readout are one tensor, where the parameterization has one rule for both."""
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

    def check(self) -> None:
        """Raises `RequestError` for the first setting that cannot be."""
        for f in dataclasses.fields(self):
            require(getattr(self, f.name) > 0, f"--mult.{f.name} must be positive, got {getattr(self, f.name):g}")


@dataclass(frozen=True)
class DiagnosticsConfig:
    """What is measured inside the model while it trains (refined coordinate check, spectra, sharpness); it never
    changes the run."""

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

    def check(self) -> None:
        """Raises `RequestError` for the first setting that cannot be."""
        default = DiagnosticsConfig()
        for key in ("interval", "first", "sharpness_interval"):
            require(getattr(self, key) >= 0, f"--diagnostics.{key} must not be negative, got {getattr(self, key)}")
        for key in ("probe", "sharpness_probe", "eigenvalues"):
            require(getattr(self, key) >= 1, f"--diagnostics.{key} must be at least 1, got {getattr(self, key)}")
        for key in ("reference", "initial", "spectra"):
            require(
                self.on or getattr(self, key) == getattr(default, key),
                f"--diagnostics.{key} needs --diagnostics.interval or --diagnostics.first",
            )
        for key in ("eigenvalues", "ntk"):
            require(
                self.sharpness_interval > 0 or getattr(self, key) == getattr(default, key),
                f"--diagnostics.{key} needs --diagnostics.sharpness_interval",
            )


@dataclass(frozen=True)
class WandbConfig:
    """The mirror in Weights & Biases; it never changes the run."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Mirror to W&B; auto: WANDB_MODE, else online where logged in, else disabled. --wandb offline says the same."""
    project: str | None = None
    """Project in W&B; null: WANDB_PROJECT, else width-scaling."""
    entity: str | None = None
    """User or team that the project belongs to; null: WANDB_ENTITY, else the default of who is logged in."""
    tags: tuple[str, ...] = ()
    """Tags of the run in W&B, such as draft,h200; empty: WANDB_TAGS. A diverged or aborted run has that as a tag."""

    def check(self, flag: str = "--wandb.") -> None:
        """Raises `RequestError` for the first setting that W&B would refuse; `flag`: what its name has before it."""
        for key, name in (("project", self.project), ("entity", self.entity)):
            require(
                name is None or re.fullmatch(r"[^/\\#?%:\s]([^/\\#?%:\n]{0,126}[^/\\#?%:\s])?", name),
                f"{flag}{key} must be one name of at most 128 characters, without / \\ # ? % :, got {name!r}"
                + (f": the user or team is {flag}entity" if key == "project" and "/" in (name or "") else ""),
            )
        for tag in self.tags:
            require(0 < len(tag) <= 64, f"{flag}tags: a tag has 1 to 64 characters, got {tag!r}")
