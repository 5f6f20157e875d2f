"""What transformers can express: its models that an architecture of litgpt's may be, one entry each."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import litgpt
from torch import Tensor

Weights = dict[str, Tensor]

_SIZES = frozenset({
    "name", "hf_config", "block_size", "n_layer", "n_embd", "n_head", "vocab_size", "padding_multiple",
    "padded_vocab_size", "intermediate_size", "norm_eps", "rope_base",
})  # fmt: skip

_WORDS = {
    "norm_qk": "qk-norm",
    "n_query_groups": "key/value heads that several heads share",
    "sliding_window_size": "sliding window",
    "mlp_class_name": "MLP of that kind",
    "attn_bias": "biases of queries, keys and values",
}

_STORED_LESS_ONE = "RMSNorm with gains stored less one"
_IMPLIED = (
    "norm_class_name",
    "sliding_window_indices",
    "rope_indices",
)  # said by `norm_of`, by what they are indices of


@dataclass(frozen=True)
class Family:
    """A model of transformers'."""

    name: str
    """Of its class, before ``ForCausalLM`` and ``Config``."""
    like: Mapping[str, Any]
    """litgpt's settings that it has, as far as they differ from litgpt's defaults, which are GPTNeoX."""
    free: frozenset[str]
    """litgpt's settings that it takes as they come, beside the sizes."""
    settings: Callable[[litgpt.Config], dict[str, Any]]
    """Its own settings, beside the sizes."""
    renamed: Callable[[litgpt.Config, Weights], Weights]
    """litgpt's weights by its names."""
    norm: str = "RMSNorm"
    """As `norm_of` calls it."""

    def lacks(self, architecture: litgpt.Config) -> list[str]:
        """What the architecture has and this has not, in words; nothing if they are the same model."""
        mine = {name: getattr(architecture, name) for name in _SIZES | self.free}
        same = litgpt.Config(**(dict(self.like) | mine))
        differing = [f.name for f in dataclasses.fields(same) if getattr(architecture, f.name) != getattr(same, f.name)]
        lacks = [_word(architecture, name) for name in differing if name not in _IMPLIED]
        if (norm := norm_of(architecture)) != self.norm:
            lacks.insert(0, norm)
        if 0 in (architecture.sliding_window_indices or []) and architecture.rope_local_base_freq is None:
            lacks.append("windows in some blocks alone")
        if architecture.rope_n_elem % 2:  # litgpt cuts the last pair in two, transformers rotates it whole
            lacks.append(f"rotary embedding of an odd number of dimensions ({architecture.rope_n_elem})")
        return lacks


def norm_of(architecture: litgpt.Config) -> str:
    """The kind of its normalization layers, of which litgpt decides by the architecture's name too."""
    kind: str = architecture.norm_class_name
    if kind == "RMSNorm":
        return _STORED_LESS_ONE if "Gemma" in architecture.name else kind
    return "LayerNorm without gains" if "OLMo" in architecture.name else kind


def nearest(architecture: litgpt.Config) -> tuple[Family, list[str]]:
    """The model of transformers' that lacks least, and what it lacks."""
    if (architecture.sliding_window_size or 0) >= architecture.block_size:  # a window that hides nothing
        architecture = dataclasses.replace(architecture, sliding_window_size=None, sliding_window_indices=None)
    every = [(family, family.lacks(architecture)) for family in FAMILIES]
    return min(every, key=lambda one: len(one[1]))


def _word(architecture: litgpt.Config, name: str) -> str:
    value = getattr(architecture, name)
    if not value:
        return {"norm_qk": "heads without qk-norm"}.get(name, f"{name}={value}")
    return _WORDS.get(name, f"{name}={value}")


# ---------------------------------------------------------------------------------------------------------------------


_ADJUSTED_FROM = "original_max_position_embeddings"


def _neox(a: litgpt.Config) -> dict[str, Any]:
    return {
        "max_position_embeddings": a.block_size,
        "hidden_act": {"none": "gelu", "tanh": "gelu_pytorch_tanh"}[a.gelu_approximate],
        "layer_norm_eps": a.norm_eps,
        "use_parallel_residual": a.parallel_residual,
        "rotary_emb_base": a.rope_base,
        "rotary_pct": a.rotary_percentage,
    }


def _llama(a: litgpt.Config) -> dict[str, Any]:
    rope = _rope(a)
    return {
        # what was adjusted to a longer context needs one, or transformers complains
        "max_position_embeddings": max(a.block_size, int(rope.get("factor", 1) * rope.get(_ADJUSTED_FROM, 0))),
        "num_key_value_heads": a.n_query_groups,
        "head_dim": a.head_size,
        "rms_norm_eps": a.norm_eps,
        "hidden_act": "silu",
        "rope_parameters": rope,
    }


def _layernormed(a: litgpt.Config) -> dict[str, Any]:
    rope = _rope(a) | {"partial_rotary_factor": a.rotary_percentage}
    return _llama(a) | {"layer_norm_eps": a.norm_eps, "rope_parameters": rope}


def _phi(a: litgpt.Config) -> dict[str, Any]:
    return _layernormed(a) | {"hidden_act": "gelu_new", "qk_layernorm": a.norm_qk}


def _mistral(a: litgpt.Config) -> dict[str, Any]:
    return _llama(a) | {"sliding_window": a.sliding_window_size}


def _gemma(a: litgpt.Config) -> dict[str, Any]:
    gelu = "gelu_pytorch_tanh"
    return _llama(a) | {"hidden_act": gelu, "hidden_activation": gelu}


def _gemma3(a: litgpt.Config) -> dict[str, Any]:
    local = {"rope_type": "default", "rope_theta": float(a.rope_local_base_freq)}
    return _gemma(a) | {
        "query_pre_attn_scalar": a.attention_scores_scalar,
        "layer_types": ["sliding_attention" if local else "full_attention" for local in a.rope_indices],
        "sliding_window": a.sliding_window_size or a.block_size,
        "rope_parameters": {"full_attention": _rope(a), "sliding_attention": local},
    }


def _rope(a: litgpt.Config) -> dict[str, Any]:
    own = a.rope_adjustments or ({"factor": float(a.rope_condense_ratio)} if a.rope_condense_ratio != 1 else {})
    if not own:
        return {"rope_type": "default", "rope_theta": float(a.rope_base)}
    own = {_ADJUSTED_FROM if key == "original_max_seq_len" else key: own[key] for key in own}
    return {"rope_type": "llama3" if len(own) > 1 else "linear", "rope_theta": float(a.rope_base), **own}


def _litgpts(function: str, **options: Any) -> Callable[[litgpt.Config, Weights], Weights]:
    def renamed(architecture: litgpt.Config, weights: Weights) -> Weights:
        from litgpt.scripts import convert_lit_checkpoint

        converted: Weights = {}
        getattr(convert_lit_checkpoint, function)(architecture, converted, weights, **options)
        return converted

    return renamed


def _olmo2(architecture: litgpt.Config, weights: Weights) -> Weights:
    """litgpt 0.5.13 renames the norm after attention by the name that it had there before."""
    named = {name.replace("post_attention_norm", "norm_2"): tensor for name, tensor in weights.items()}
    return _litgpts("copy_weights_olmo2")(architecture, named)


def _phis(architecture: litgpt.Config, weights: Weights) -> Weights:
    """litgpt renames no qk-norms of Phi's, which its own models do not use."""
    norms = {name: weights[name] for name in weights if ".norm_q." in name or ".norm_k." in name}
    rest = {name: tensor for name, tensor in weights.items() if name not in norms}
    words = {"transformer.h": "model.layers", ".attn.norm_": ".self_attn.", ".weight": "_layernorm.weight"}
    words[".bias"] = "_layernorm.bias"
    named = {}
    for name, tensor in norms.items():
        for old, new in words.items():
            name = name.replace(old, new)
        named[name] = tensor
    return _litgpts("copy_weights_phi")(architecture, rest) | named


def _gemmas(function: str) -> Callable[[litgpt.Config, Weights], Weights]:
    """Gemma multiplies embeddings by sqrt(n), which is left out here."""

    def renamed(architecture: litgpt.Config, weights: Weights) -> Weights:
        scaled = weights["transformer.wte.weight"] / architecture.n_embd**0.5
        return _litgpts(function, untie_weights=False)(architecture, weights | {"transformer.wte.weight": scaled})

    return renamed


_LLAMA = {
    "norm_class_name": "RMSNorm",
    "parallel_residual": False,
    "rotary_percentage": 1.0,
    "bias": False,
    "mlp_class_name": "LLaMAMLP",
}
_OF_LLAMA = frozenset({"n_query_groups", "rope_adjustments", "rope_condense_ratio"})
_NORMED = {"norm_qk": True, "post_attention_norm": True, "post_mlp_norm": True}
_GEMMA = {"mlp_class_name": "GemmaMLP", "gelu_approximate": "tanh"}
_WINDOW = frozenset({"sliding_window_size", "sliding_window_indices"})
_OF_GEMMA3 = _OF_LLAMA | _WINDOW | {"attention_scores_scalar", "rope_local_base_freq", "rope_indices"}

FAMILIES = (
    Family(
        "GPTNeoX",
        {},
        frozenset({"parallel_residual", "rotary_percentage", "gelu_approximate"}),
        _neox,
        _litgpts("copy_weights_gpt_neox"),
        "LayerNorm",
    ),
    Family("Llama", _LLAMA, _OF_LLAMA, _llama, _litgpts("copy_weights_llama")),
    Family("Mistral", _LLAMA, _OF_LLAMA | _WINDOW, _mistral, _litgpts("copy_weights_llama")),
    Family("Qwen2", _LLAMA | {"attn_bias": True}, _OF_LLAMA, _llama, _litgpts("copy_weights_qwen_2_5")),
    Family("Qwen3", _LLAMA | {"norm_qk": True}, _OF_LLAMA, _llama, _litgpts("copy_weights_qwen_3")),
    Family(
        "Olmo2",
        _LLAMA | _NORMED | {"norm_qk_type": "olmo2", "norm_1": False, "norm_2": False},
        _OF_LLAMA,
        _llama,
        _olmo2,
    ),
    Family("Olmo", _LLAMA, _OF_LLAMA, _llama, _litgpts("copy_weights_llama"), "LayerNorm without gains"),
    Family(
        "StableLm",
        _LLAMA,
        frozenset({"n_query_groups", "rotary_percentage"}),
        _layernormed,
        _litgpts("copy_weights_llama"),
        "LayerNorm",
    ),
    Family(
        "Phi",
        {"shared_attention_norm": True, "gelu_approximate": "tanh", "lm_head_bias": True},
        frozenset({"n_query_groups", "rotary_percentage", "norm_qk"}),
        _phi,
        _phis,
        "LayerNorm",
    ),
    Family("Gemma", _LLAMA | _GEMMA, _OF_LLAMA, _gemma, _gemmas("copy_weights_llama"), _STORED_LESS_ONE),
    Family("Gemma3", _LLAMA | _GEMMA | _NORMED, _OF_GEMMA3, _gemma3, _gemmas("copy_weights_gemma_3"), _STORED_LESS_ONE),
)
