"""Kinds of models: one entry each. The half that needs torch is the module that it names (`pipeline.models.build`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.entries.optimizers import OPTIMIZERS
from pipeline.errors import RequestError, require
from pipeline.parameterization import rules

Part = Literal["embedding", "matrix", "gain", "bias", "attention"]

FIRST = " (first block)"
"""Ends the groups of what reads the embedding directly: as that may vanish, their propagating updates differ."""


@dataclass(frozen=True)
class Place:
    """Where a weight stands in its network: its group in tables, and the layer of `theory` whose exponents it
    follows."""

    group: str
    layer: str | None
    """As `theory.predict` calls it; None: no prediction."""
    part: Part = "matrix"
    first: bool = False
    """Reads the embedding directly, or, with blocks whose MLP follows the attention, what the first attention adds to
    it."""

    @property
    def label(self) -> str:
        """The group in tables."""
        return self.group + FIRST * self.first


OTHER = Place("other", None)
SMALL_GROUPS = ("biases", "qk-norm", "readout bias", "attention", "other")


@dataclass(frozen=True)
class Kind:
    """A kind of model, by its `--model.kind` name. Its functions take a `RunConfig`."""

    name: str
    singular: str
    plural: str
    """As people write them."""
    takes: Literal["text", "vectors"]
    example: str
    """A recipe of it, which stands in where none is named."""
    module: str
    """Has ``of_run(config)``, the model and the specs of its tensors, ``flops(model, config)`` per predicted token or
    example, and ``about(config)``, what is to be said of the architecture."""
    settings: frozenset[str]
    """The `model` settings it uses; the others must be at their defaults."""
    check: Callable[[Any], None]
    """Raises `RequestError` for settings that cannot be."""
    width_step: Callable[[Any], int]
    """Every width is a multiple of it."""
    weights_per_layer: Callable[[Any], float]
    """In units of the width squared, for relative costs."""
    theory: Callable[[Any], dict[str, Any]]
    """The settings of `theory.network.Setting` that follow from the model."""
    embeds: bool
    """Whether its first layer is an embedding, whose initial std `embedding_init` may have shrink; else it is drawn as
    by `constant`."""
    exported: bool
    """Whether its weights are those of an architecture of litgpt's: ``litgpt_config(model, width, seq_len)`` of the
    module."""
    groups: tuple[str, ...]
    """Of large weights, in the order of tables and figures."""
    place: Callable[[Sequence[str], Any], Place]
    """Of a weight, by the parts of its name. The one place that reads names: training writes what it says into the
    run's weights.json, once, beside the roles that the module decides."""


def place_of(weight: str, config: Any) -> Place:
    """The place of a weight, or of a block's attention (``transformer.h.0.attn``)."""
    return KINDS[config.model.kind].place(weight.split("."), config)


# ---------------------------------------------------------------------------------------------------------------------
# GPT: litgpt's, on text


_OF_GPTS = frozenset({
    "n_layer", "norm", "train", "train_norms", "name", "head_size", "kv_heads", "mlp_ratio", "vocab_size", "qk_norm",
    "qk_norm_role", "tie_embeddings",
})  # fmt: skip


def _check_gpt(c: Any) -> None:
    m = c.model
    for key in ("n_layer", "head_size", "vocab_size"):
        require(getattr(m, key) >= 1, f"--model.{key} must be at least 1, got {getattr(m, key)}")
    require(m.mlp_ratio is None or m.mlp_ratio > 0, f"--model.mlp_ratio must be positive, got {m.mlp_ratio}")
    if c.width % m.head_size:
        below, above = c.width // m.head_size * m.head_size, (c.width // m.head_size + 1) * m.head_size
        near = f"{below} or {above}" if below else f"{above}"
        raise RequestError(f"--width {c.width} is not divisible by the head size {m.head_size}: use {near}")
    require(
        c.base_width % m.head_size == 0, f"--base_width {c.base_width} is not divisible by the head size {m.head_size}"
    )
    heads, kv = c.width // m.head_size, m.kv_heads
    if kv != "all":
        require(kv >= 1, f"--model.kv_heads must be at least 1 or all, got {kv}")
        require(
            heads % min(kv, heads) == 0, f"--width {c.width} has {heads} heads, not divisible by --model.kv_heads {kv}"
        )
    require(m.qk_norm or m.qk_norm_role == "finite", "--model.qk_norm_role needs --model.qk_norm true")
    if m.tie_embeddings:
        _check_tied(c)


def _check_tied(c: Any) -> None:
    """One tensor has one initial value, one learning rate, and is trained or not."""
    family, tie = OPTIMIZERS[c.optimizer].family, "--model.tie_embeddings: embedding and readout"
    require(
        rules.get(c.param).ties(c.embedding_init, family),
        f"{tie} have no one rule under --param {c.param} with {c.optimizer} and --embedding_init {c.embedding_init}, "
        "and nothing multiplies logits here; SP with neox has one",
    )
    require(c.readout_init == "standard", f"{tie} cannot both start as --readout_init zero says")
    require(c.model.train == "all", f"{tie} are one tensor: --model.train {c.model.train} would split it")
    for what in ("init", "lr"):
        one, other = (f"{role}_{what}" for role in ("input", "output"))
        require(
            getattr(c.mult, one) == getattr(c.mult, other), f"{tie} need --mult.{one} and --mult.{other} to be the same"
        )


def _gpt_in_theory(c: Any) -> dict[str, Any]:
    return {
        "model": "gpt",
        "depth": c.model.n_layer + 2,
        "activation": c.model.activation,
        "embedding_init": c.embedding_init,
        "train": c.model.train,
        "train_norms": c.model.train_norms,
        "qk_norm": c.model.qk_norm,
        "qk_norm_role": c.model.qk_norm_role,
        "tied": c.model.tie_embeddings,
        "kv_heads": "all" if c.model.kv_heads == "all" else "fixed",
    }


def _in_gpt(parts: Sequence[str], config: Any) -> Place:
    match parts:
        case ["transformer", "wte", "weight"]:
            return Place("embedding", "input", "embedding")
        case ["transformer", "ln_f", tensor]:
            return _norm(tensor)
        case ["lm_head", "weight"]:
            return Place("readout", "output")
        case ["lm_head", "bias"]:
            return Place("readout bias", "finite", "bias")
        case ["transformer", "h", block, *inner]:
            return _in_block(inner, first=block == "0", fixed_kv=config.model.kv_heads != "all")
    return OTHER


def _in_block(inner: Sequence[str], *, first: bool, fixed_kv: bool) -> Place:
    hidden = "hidden1" if first else "hidden"
    match inner:
        case ["attn"]:
            return Place("attention", None, "attention")
        case ["attn", "norm_q" | "norm_k", tensor]:
            return Place("qk-norm", "finite", "bias" if tensor == "bias" else "gain")
        case ["norm_1" | "norm_2", tensor]:
            return _norm(tensor, first)
        case ["post_attention_norm" | "post_mlp_norm", tensor]:
            return _norm(tensor)
        case ["attn" | "mlp", _, "bias"]:
            return Place("biases", "vector", "bias")
        case ["attn", "q", "weight"]:
            return Place("q", hidden, first=first)
        case ["attn", "k" | "v" as row, "weight"]:
            return Place(row, "key_value" if fixed_kv else hidden, first=first)
        case ["attn", "proj", "weight"]:
            return Place("attn.proj", "hidden")
        case ["mlp", "fc" | "fc_1" | "fc_2", "weight"]:
            return Place("mlp.fc", hidden, first=first)
        case ["mlp", "proj", "weight"]:
            return Place("mlp.proj", "hidden")
    return OTHER


def _norm(tensor: str, first: bool = False) -> Place:
    return Place("norms", "vector", "bias" if tensor == "bias" else "gain", first)


# ---------------------------------------------------------------------------------------------------------------------
# MLP: on vectors (paper, D.1)


_OF_MLPS = frozenset({"n_layer", "activation", "norm", "train", "train_norms", "bias", "residual", "logit_norm"})


def _check_mlp(c: Any) -> None:
    m = c.model
    require(2 <= m.n_layer <= 10, f"--model.n_layer of an MLP must be 2..10, got {m.n_layer}")
    require(m.train_norms or m.norm != "own", "--model.train_norms false needs --model.norm: an MLP has no own norms")
    require(not m.residual or m.n_layer > 2, "--model.residual needs hidden layers: --model.n_layer 3 or more")
    require(c.depth_scaling == "none" or m.residual, "--depth_scaling needs residual branches: --model.residual true")
    require(c.embedding_init != "neox_always", "--embedding_init neox_always is for GPTs, not for an MLP")


def _mlp_in_theory(c: Any) -> dict[str, Any]:
    m = c.model
    return {
        "model": "mlp",
        "depth": m.n_layer,
        "activation": m.activation,
        "train": m.train,
        "norms": m.norm != "own",
        "train_norms": m.train_norms,
        "biases": m.bias,
        "residual": m.residual,
        "logit_norm": m.logit_norm != "none",
    }


def _in_mlp(parts: Sequence[str], config: Any) -> Place:
    match parts:
        case ["layers", "0"] | ["layers", "0", "weight"]:
            return Place("input", "input")
        case ["layers", "1"] | ["layers", "1", "weight"]:
            return Place("first hidden", "hidden1")
        case ["layers", _] | ["layers", _, "weight"]:
            return Place("hidden", "hidden")
        case ["norms", layer, tensor]:
            return _norm(tensor, first=layer == "0")
        case ["layers", _, "bias"]:
            return Place("biases", "vector", "bias")
        case ["readout", "weight"]:
            return Place("readout", "output")
        case ["readout", "bias"]:
            return Place("readout bias", "finite", "bias")
    return OTHER


KINDS: dict[str, Kind] = {
    entry.name: entry
    for entry in (
        Kind(
            "gpt",
            "a GPT",
            "GPTs",
            "text",
            "quick",
            "pipeline.models.gpt",
            _OF_GPTS,
            _check_gpt,
            width_step=lambda c: int(c.model.head_size),
            weights_per_layer=lambda c: 4 + 2 * (c.model.mlp_ratio or 4),
            theory=_gpt_in_theory,
            embeds=True,
            exported=True,
            groups=("embedding", "norms", "q", "k", "v", "attn.proj", "mlp.fc", "mlp.proj", "readout"),
            place=_in_gpt,
        ),
        Kind(
            "mlp",
            "an MLP",
            "MLPs",
            "vectors",
            "mlp-digits",
            "pipeline.models.mlp",
            _OF_MLPS,
            _check_mlp,
            width_step=lambda c: 1,
            weights_per_layer=lambda c: 1,
            theory=_mlp_in_theory,
            embeds=False,
            exported=False,
            groups=("input", "norms", "first hidden", "hidden", "readout"),
            place=_in_mlp,
        ),
    )
}
