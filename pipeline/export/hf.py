"""A GPT's weights as files, and as one of transformers' models where that is the same model."""

import json
import shutil
from pathlib import Path

import litgpt
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from pipeline.data.shards import TOKENIZER
from pipeline.data.tokenizer import END_OF_TEXT, load_tokenizer
from pipeline.export.families import Family
from pipeline.files import write_atomic

WEIGHTS = "model.safetensors"


def write_hf(
    folder: Path, weights: dict[str, Tensor], architecture: litgpt.Config, family: Family, tokenizer: Path | None
) -> None:
    """Make `folder` one that ``AutoModelForCausalLM.from_pretrained`` reads, from litgpt's weights, which are those of
    a model of `family`."""
    import transformers

    end = load_tokenizer(tokenizer).token_to_id(END_OF_TEXT) if tokenizer else None
    settings = family.settings(architecture)
    of_text = "Text" if hasattr(transformers, f"{family.name}TextConfig") else ""  # Gemma 3 sees images too
    config = getattr(transformers, f"{family.name}{of_text}Config")(
        architectures=[f"{family.name}ForCausalLM"],
        vocab_size=architecture.padded_vocab_size,
        hidden_size=architecture.n_embd,
        num_hidden_layers=architecture.n_layer,
        num_attention_heads=architecture.n_head,
        intermediate_size=architecture.intermediate_size,
        tie_word_embeddings=False,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=None,
        dtype=weights["lm_head.weight"].dtype,
        **settings,
    )
    # transformers 5.3 forgets the share of rotated dimensions unless config.json says it in these words, which are
    # also those of its versions before 5
    for name in {"rotary_pct", "rotary_emb_base"} & settings.keys():
        setattr(config, name, settings[name])
    folder.mkdir()
    config.save_pretrained(folder)
    converted = family.renamed(architecture, weights)
    write_weights({name: tensor.clone() for name, tensor in converted.items()}, folder / WEIGHTS)  # some are views


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
