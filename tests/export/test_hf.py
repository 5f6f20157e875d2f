"""The part of an export that transformers loads as GPTNeoX, and the tokenizer beside it."""

from pathlib import Path
from typing import Any

import litgpt
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.config import RunConfig
from pipeline.data.preparing.prepare import prepare, prepared_folder
from pipeline.export import hf as of_hf
from pipeline.export.families import FAMILIES
from pipeline.export.litgpt import export, how_to_load
from pipeline.models import gpt
from tests.conftest import changed
from tests.support.exports import LITGPT_FILES, TEXT, loaded, logits_of_the_run, same_logits, tokens_of, trained, tree

NEOX = FAMILIES[0]


def test_transformers_loads_what_is_a_gpt_neox(tiny: RunConfig, tmp_path: Path) -> None:
    config = changed(tiny, width=64, model_qk_norm=False)
    exported = export(trained(config), tmp_path / "out")
    assert exported.left_out == ()
    assert (
        set(exported.files)
        == set(tree(exported.folder))
        == LITGPT_FILES
        | {f"hf/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")}
    )
    same_logits(config, loaded(exported.folder))
    library, _, code = how_to_load(exported)[1].partition(": ")
    assert library == "transformers"
    hf = eval(code, {"AutoModelForCausalLM": AutoModelForCausalLM})
    assert type(hf).__name__ == "GPTNeoXForCausalLM"
    assert hf.dtype == torch.float32
    ours = logits_of_the_run(config)
    with torch.no_grad():
        torch.testing.assert_close(hf(tokens_of(config)).logits, ours, rtol=0, atol=1e-5)
    assert ours.abs().max() > 0.1

    tokenizer = AutoTokenizer.from_pretrained(exported.folder / "hf")
    library_free = of_hf.load_tokenizer(prepared_folder(config.data, 300) / "tokenizer.json")
    assert tokenizer.encode(TEXT) == library_free.encode(TEXT).ids
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert hf.config.eos_token_id == hf.config.bos_token_id == tokenizer.eos_token_id == 0


def test_transformers_takes_all_that_gpt_neox_leaves_free(tmp_path: Path) -> None:
    """Whatever litgpt may name: blocks in series, other rotations, epsilon, activation and MLP size."""
    architecture = litgpt.Config(
        n_layer=3, n_embd=64, n_head=4, padded_vocab_size=300, block_size=16, intermediate_size=160, rope_base=50,
        rotary_percentage=0.5, parallel_residual=False, norm_eps=0.1, gelu_approximate="tanh",
    )  # fmt: skip
    assert NEOX.lacks(architecture) == []
    torch.manual_seed(0)
    model = litgpt.GPT(architecture)
    for parameter in model.parameters():  # biases and gains too, and large enough for the activation to matter
        torch.nn.init.normal_(parameter, std=0.3)
    of_hf.write_hf(tmp_path / "hf", dict(model.state_dict()), architecture, NEOX, None)
    hf = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    tokens = torch.randint(0, 300, (3, 16))
    with torch.no_grad():
        torch.testing.assert_close(hf(tokens).logits, model(tokens), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "obstacle"),
    [
        ({"bias": False}, "bias=False"),
        ({"lm_head_bias": True}, "lm_head_bias=True"),
        ({"shared_attention_norm": True}, "shared_attention_norm=True"),
        ({"rope_condense_ratio": 2}, "rope_condense_ratio=2"),
        ({"head_size": 8}, "head_size=8"),
    ],
)
def test_what_gpt_neox_has_not(setting: dict[str, Any], obstacle: str) -> None:
    architecture = litgpt.Config(n_layer=1, n_embd=64, n_head=4, padded_vocab_size=300, **setting)
    assert NEOX.lacks(architecture) == [obstacle]


def test_no_hf_where_rotation_differs(tiny: RunConfig, tmp_path: Path) -> None:
    config = changed(tiny, steps=3, width=24, base_width=24, model_head_size=12, model_qk_norm=False)
    exported = export(trained(config), tmp_path / "out")
    assert exported.left_out == (
        "torch/ instead of hf/: transformers' GPTNeoX comes nearest and has no rotary embedding of an odd number of "
        "dimensions (3)",
    )
    same_logits(config, loaded(exported.folder))


def test_transformers_keeps_the_tokenizer_as_it_is(tiny: RunConfig, tmp_path: Path) -> None:
    """It would rebuild one of the class that goes with GPTNeoX, which knows one way to cut text into words."""
    tokenizer = Tokenizer.from_file(str(prepare(tiny.data, 300) / "tokenizer.json"))
    cut = pre_tokenizers.Split("o", "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, tokenizer.pre_tokenizer])
    path = tmp_path / "mine.json"
    tokenizer.save(str(path))
    model = gpt.build(changed(tiny, model_qk_norm=False).model, 32, 16)
    of_hf.write_hf(tmp_path / "hf", dict(model.state_dict()), model.config, NEOX, path)
    of_hf.write_tokenizer(tmp_path / "hf", path, 16)
    text = "people of the union"
    assert AutoTokenizer.from_pretrained(tmp_path / "hf").encode(text) == tokenizer.encode(text).ids
    plain = Tokenizer.from_file(str(prepare(tiny.data, 300) / "tokenizer.json"))
    assert tokenizer.encode(text).ids != plain.encode(text).ids
