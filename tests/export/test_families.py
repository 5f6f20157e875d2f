"""Every kind of GPT that can be trained here, by transformers' own model where there is one, else in plain torch."""

import dataclasses
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import litgpt
import pytest
import torch
import transformers

from pipeline.config import ModelConfig, RunConfig
from pipeline.export.families import nearest
from pipeline.export.hf import write_hf
from pipeline.export.litgpt import export
from pipeline.export.plain_folder import write_plain
from pipeline.models.gpt import litgpt_config
from tests.conftest import changed
from tests.support.exports import LITGPT_FILES, logits_of_the_run, tokens_of, trained, tree

T = 24

NAMES = {
    "Llama-2-7b-hf": "Llama", "Llama-3.2-1B": "Llama", "LLaMA-2-7B-32K": "Llama", "Mistral-7B-v0.1": "Llama",
    "Phi-3-mini-4k-instruct": "Mistral", "Qwen2.5-0.5B": "Qwen2", "Qwen3-0.6B": "Qwen3", "OLMo-2-1124-7B": "Olmo2",
    "OLMo-1B-hf": "Olmo", "stablelm-3b-4e1t": "StableLm", "phi-2": "Phi", "Gemma-7b": "Gemma", "Gemma-3-4b-it": "Gemma3",
    "pythia-14m": "", "falcon-7b": "", "Phi-4-mini-instruct": "",
}  # fmt: skip
"""One of each kind that litgpt names, and the model of transformers' that it is; seven blocks, so that Gemma 3 has local
and global ones."""


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_litgpt(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All weights are drawn, gains and biases too, and large enough for every part to matter."""
    qk_norm = NAMES[name] in ("", "Qwen3", "Olmo2", "Phi", "Gemma3")
    model = ModelConfig(name=name, n_layer=7, head_size=16, kv_heads=2, vocab_size=300, mlp_ratio=3.0, qk_norm=qk_norm)
    architecture = litgpt_config(model, 96, T)
    windows = (
        {"sliding_window_size": 9} if architecture.sliding_window_size in (1024, 2048) else {}
    )  # shorter than the text
    architecture = dataclasses.replace(architecture, **windows)
    torch.manual_seed(0)
    gpt = litgpt.GPT(architecture)
    std = 0.1 if "Gemma" in name else 0.3  # whose own rounding in float32 is beyond 1e-5 at larger ones
    for parameter in gpt.parameters():
        torch.nn.init.normal_(parameter, std=std)
    weights, tokens = dict(gpt.state_dict()), torch.randint(0, 300, (2, T))
    with torch.no_grad():
        expected = gpt(tokens)
        write_plain(tmp_path / "torch", weights, architecture)
        plain = runpy.run_path(str(tmp_path / "torch" / "model.py"))["load"](tmp_path / "torch")
        torch.testing.assert_close(plain(tokens), expected, rtol=0, atol=1e-5)
        family, lacks = nearest(architecture)
        assert (family.name if not lacks else "") == NAMES[name]
        if not lacks:
            write_hf(tmp_path / "hf", weights, architecture, family, None)
            transformers.utils.logging.enable_propagation()
            theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
            assert type(theirs).__name__ == f"{family.name}ForCausalLM"
            torch.testing.assert_close(theirs(tokens).logits, expected, rtol=0, atol=1e-5)
    transformers.utils.logging.disable_propagation()
    assert not caplog.records, "nobody who loads it is warned"
    with pytest.raises(ValueError, match="25 tokens in a row: this model knows 24 positions"):
        plain(torch.zeros(1, T + 1, dtype=torch.long))


def test_a_trained_qwen3_is_transformers(tiny: RunConfig, tmp_path: Path) -> None:
    config = changed(tiny, steps=3, model_name="Qwen3-0.6B", model_kv_heads=2)
    exported = export(trained(config), tmp_path / "out")
    assert exported.left_out == ()
    assert {"hf/config.json", "hf/model.safetensors"} | LITGPT_FILES < set(tree(exported.folder))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(exported.folder / "hf")
    assert type(theirs).__name__ == "Qwen3ForCausalLM"
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens_of(config)).logits, logits_of_the_run(config), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_plain_torch_needs_nothing_of_this_project(tiny: RunConfig, tmp_path: Path) -> None:
    config = changed(tiny, steps=3)
    exported = export(trained(config), tmp_path / "out")
    shutil.move(exported.folder / "torch", tmp_path / "elsewhere")
    code = (
        "import sys, torch; from model import load; logits = load()(torch.load('tokens.pt'))\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('pipeline', 'litgpt', 'lightning')]\n"
        "torch.save(logits.detach(), 'logits.pt')"
    )
    torch.save(tokens_of(config), tmp_path / "elsewhere" / "tokens.pt")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "elsewhere", env={}, check=True)
    found = torch.load(tmp_path / "elsewhere" / "logits.pt")
    torch.testing.assert_close(found, logits_of_the_run(config), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Qwen2.5-0.5B", ("Qwen2", ["qk-norm"])),
        ("OLMo-1B-hf", ("Qwen3", ["LayerNorm without gains"])),
        ("Phi-4-mini-instruct", ("Qwen3", ["rotary_percentage=0.75"])),
        ("Gemma-3-4b-it", ("Gemma3", [])),
    ],
)
def test_what_comes_nearest(name: str, line: tuple[str, list[str]]) -> None:
    family, lacks = nearest(litgpt_config(ModelConfig(name=name, head_size=16), 64, T))
    assert (family.name, lacks) == line
