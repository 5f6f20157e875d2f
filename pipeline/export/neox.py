"""A GPT's weights as files, and as transformers' GPTNeoX where that is the same model."""

import dataclasses
import json
import shutil
from pathlib import Path

import litgpt
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from pipeline.data.shards import TOKENIZER
from pipeline.data.tokenizer import END_OF_TEXT, load_tokenizer
from pipeline.files import write_atomic

WEIGHTS = "model.safetensors"

# What transformers' GPTNeoX takes from a config; all else must be as litgpt's defaults, which are GPTNeoX, have it.
_FREE_IN_NEOX = (
    "name", "hf_config", "block_size", "n_layer", "n_embd", "n_head", "vocab_size", "padding_multiple",
    "padded_vocab_size", "intermediate_size", "norm_eps", "parallel_residual", "rope_base", "rotary_percentage",
    "gelu_approximate",
)  # fmt: skip


def beyond_neox(architecture: litgpt.Config) -> list[str]:
    """What the architecture has and transformers' GPTNeoX has not; nothing if they are the same model."""
    neox = litgpt.Config(**{name: getattr(architecture, name) for name in _FREE_IN_NEOX})
    words = {"norm_qk": "qk-norm", "n_query_groups": "key/value heads that several heads share"}
    differing = {
        field.name: getattr(architecture, field.name)
        for field in dataclasses.fields(architecture)
        if getattr(architecture, field.name) != getattr(neox, field.name)
    }
    obstacles = [words.get(name, f"{name}={value}") for name, value in differing.items()]
    if architecture.rope_n_elem % 2:  # litgpt cuts the last pair in two, transformers rotates it whole
        obstacles.append(f"rotary embedding of an odd number of dimensions ({architecture.rope_n_elem})")
    return obstacles


def write_neox(folder: Path, weights: dict[str, Tensor], architecture: litgpt.Config, tokenizer: Path | None) -> None:
    """Make `folder` one that ``AutoModelForCausalLM.from_pretrained`` reads, from litgpt's weights."""
    from litgpt.scripts.convert_lit_checkpoint import copy_weights_gpt_neox
    from transformers import GPTNeoXConfig

    end = load_tokenizer(tokenizer).token_to_id(END_OF_TEXT) if tokenizer else None
    config = GPTNeoXConfig(
        architectures=["GPTNeoXForCausalLM"],
        vocab_size=architecture.padded_vocab_size,
        hidden_size=architecture.n_embd,
        num_hidden_layers=architecture.n_layer,
        num_attention_heads=architecture.n_head,
        intermediate_size=architecture.intermediate_size,
        hidden_act={"none": "gelu", "tanh": "gelu_pytorch_tanh"}[architecture.gelu_approximate],
        max_position_embeddings=architecture.block_size,
        layer_norm_eps=architecture.norm_eps,
        use_parallel_residual=architecture.parallel_residual,
        rotary_emb_base=architecture.rope_base,
        rotary_pct=architecture.rotary_percentage,
        bos_token_id=end,
        eos_token_id=end,
        dtype=weights["lm_head.weight"].dtype,
    )
    # transformers 5.3 forgets the share of rotated dimensions unless config.json says it in these words, which are also
    # those of its versions before 5
    config.rotary_pct, config.rotary_emb_base = architecture.rotary_percentage, architecture.rope_base
    folder.mkdir()
    config.save_pretrained(folder)
    converted: dict[str, Tensor] = {}
    copy_weights_gpt_neox(architecture, converted, weights)
    write_weights(converted, folder / WEIGHTS)


def write_weights(weights: dict[str, Tensor], path: Path) -> None:
    """As safetensors. Raises `OSError`."""
    try:
        save_file(weights, path, metadata={"format": "pt"})
    except SafetensorError as error:  # its words for what the disk said
        raise OSError(f"cannot write {path}: {error}") from None


def write_tokenizer(folder: Path, tokenizer: Path | None, seq_len: int) -> None:
    """The tokenizer.json, if there is one, and beside it what both libraries want to know of it."""
    if tokenizer is None:
        return
    shutil.copyfile(tokenizer, folder / TOKENIZER)
    # litgpt's LLM wants one, and transformers takes the class from it rather than rebuild the tokenizer as GPTNeoX's
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "model_max_length": seq_len,
    }
    write_atomic(folder / "tokenizer_config.json", json.dumps(about, indent=2) + "\n")
