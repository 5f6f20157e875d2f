"""What a weight of metrics.jsonl is: its group in tables, and the layer of `theory` whose exponents it follows.

Names are this project's own flat names (`pipeline.diagnostics`), read whole; what is none of them has no prediction. The
models themselves know their roles (`pipeline.models`); a test holds both to the same.
"""

from dataclasses import dataclass
from typing import Literal

from pipeline.config import RunConfig

Part = Literal["embedding", "matrix", "gain", "bias", "attention"]

FIRST = " (first block)"
"""Ends the groups of what reads the embedding directly: as that may vanish, their propagating updates differ."""

GPT_GROUPS = ("embedding", "norms", "q", "k", "v", "attn.proj", "mlp.fc", "mlp.proj", "readout")
MLP_GROUPS = ("input", "first hidden", "hidden", "readout")
SMALL_GROUPS = ("biases", "qk-norm", "readout bias", "attention", "other")
ORDER = ("embedding", "input", "norms", "first hidden", "hidden", *GPT_GROUPS[2:], *SMALL_GROUPS)


@dataclass(frozen=True)
class Kind:
    """A weight's place in the network."""

    group: str
    layer: str | None
    """As `theory.Prediction.layer` calls it; None: no prediction."""
    part: Part = "matrix"
    first: bool = False
    """Reads the embedding directly, or, with blocks whose MLP follows the attention, what the first attention adds to it."""

    @property
    def label(self) -> str:
        """The group in tables."""
        return self.group + FIRST * self.first


OTHER = Kind("other", None)


def kind_of(weight: str, config: RunConfig) -> Kind:
    """The kind of a weight, or of a block's attention (``transformer.h.0.attn``)."""
    parts = weight.split(".")
    return _of_mlp(parts) if config.model.kind == "mlp" else _of_gpt(parts, config)


def _of_mlp(parts: list[str]) -> Kind:
    match parts:
        case ["layers", "0"] | ["layers", "0", "weight"]:
            return Kind("input", "input")
        case ["layers", "1"] | ["layers", "1", "weight"]:
            return Kind("first hidden", "hidden1")
        case ["layers", _] | ["layers", _, "weight"]:
            return Kind("hidden", "hidden")
        case ["readout", "weight"]:
            return Kind("readout", "output")
    return OTHER


def _of_gpt(parts: list[str], config: RunConfig) -> Kind:
    match parts:
        case ["transformer", "wte", "weight"]:
            return Kind("embedding", "input", "embedding")
        case ["transformer", "ln_f", tensor]:
            return _norm(tensor)
        case ["lm_head", "weight"]:
            return Kind("readout", "output")
        case ["lm_head", "bias"]:
            return Kind("readout bias", "finite", "bias")
        case ["transformer", "h", block, *inner]:
            return _of_block(inner, first=block == "0", fixed_kv=config.model.kv_heads != "all")
    return OTHER


def _of_block(inner: list[str], *, first: bool, fixed_kv: bool) -> Kind:
    hidden = "hidden1" if first else "hidden"
    match inner:
        case ["attn"]:
            return Kind("attention", None, "attention")
        case ["attn", "norm_q" | "norm_k", tensor]:
            return Kind("qk-norm", "finite", "bias" if tensor == "bias" else "gain")
        case ["norm_1" | "norm_2", tensor]:
            return _norm(tensor, first)
        case ["post_attention_norm" | "post_mlp_norm", tensor]:
            return _norm(tensor)
        case ["attn" | "mlp", _, "bias"]:
            return Kind("biases", "vector", "bias")
        case ["attn", "q", "weight"]:
            return Kind("q", hidden, first=first)
        case ["attn", "k" | "v" as row, "weight"]:
            return Kind(row, "key_value" if fixed_kv else hidden, first=first)
        case ["attn", "proj", "weight"]:
            return Kind("attn.proj", "hidden")
        case ["mlp", "fc" | "fc_1" | "fc_2", "weight"]:
            return Kind("mlp.fc", hidden, first=first)
        case ["mlp", "proj", "weight"]:
            return Kind("mlp.proj", "hidden")
    return OTHER


def _norm(tensor: str, first: bool = False) -> Kind:
    return Kind("norms", "vector", "bias" if tensor == "bias" else "gain", first)
