"""The folder of a GPT in plain torch (`pipeline.export.plain`), for what transformers cannot express."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import litgpt
import torch
from torch import Tensor

from pipeline.export import plain
from pipeline.export.hf import WEIGHTS, write_weights
from pipeline.files import write_atomic

MODEL, SETTINGS = "model.py", "settings.json"
_NORMS = ("norm_1", "norm_2", "post_attention_norm", "post_mlp_norm")


def write_plain(folder: Path, weights: dict[str, Tensor], architecture: litgpt.Config) -> None:
    """Make `folder` one whose model.py loads litgpt's weights, and needs nothing but torch and safetensors."""
    with torch.device("meta"):
        blank = litgpt.GPT(architecture)
    cos, sin = blank.rope_cache()  # of litgpt's own making, whatever its adjustments are
    tables = {"cos": cos, "sin": sin}
    for name, table in tables.items():  # those of global and of local blocks come last in litgpt
        tables[name] = (table.movedim(-1, 0) if table.dim() == 3 else table[None]).contiguous()
    folder.mkdir()
    shutil.copyfile(plain.__file__, folder / MODEL)
    write_atomic(folder / SETTINGS, json.dumps(settings(architecture), indent=2) + "\n")
    write_weights(weights | tables, folder / WEIGHTS)


def settings(a: litgpt.Config) -> dict[str, Any]:
    """What `plain.GPT` is made from."""
    rms = a.norm_class_name == "RMSNorm"
    windows = [a.sliding_window_size * on for on in a.sliding_window_indices] if a.sliding_window_size else None
    return {
        "name": a.name,
        "n_layer": a.n_layer,
        "width": a.n_embd,
        "n_head": a.n_head,
        "kv_heads": a.n_query_groups,
        "head_size": a.head_size,
        "mlp_size": a.intermediate_size,
        "vocab_size": a.padded_vocab_size,
        "seq_len": a.block_size,
        "norm": "rmsnorm" if rms else "layernorm",
        "norm_eps": a.norm_eps,
        "norm_gains": "OLMo" not in a.name,  # litgpt goes by these names
        "norm_gain_offset": int("Gemma" in a.name),
        "norms": [name for name in _NORMS if getattr(a, name) and not (name == "norm_2" and a.shared_attention_norm)],
        "shared_norm": a.shared_attention_norm,
        "parallel": a.parallel_residual,
        "qk_norm": {"default": "each_head", "olmo2": "all_heads"}[a.norm_qk_type] if a.norm_qk else None,
        "gated": a.mlp_class_name != "GptNeoxMLP",
        "activation": "silu" if a.mlp_class_name == "LLaMAMLP" else f"gelu_{a.gelu_approximate}",
        "bias": a.bias,
        "qkv_bias": a.bias or a.attn_bias,
        "readout_bias": a.lm_head_bias,
        "attention_scale": 1 / math.sqrt(a.attention_scores_scalar or a.head_size),
        "attention_cap": a.attention_logit_softcapping,
        "windows": windows or [0] * a.n_layer,
        "rotated": a.rope_n_elem,
        "rotations": a.rope_indices or [0] * a.n_layer,
    }
