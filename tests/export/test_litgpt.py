"""`pipeline export`: what litgpt loads from it."""

import pathlib
import runpy
from pathlib import Path
from typing import Any

import litgpt
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
import transformers
from torch.nn import functional as F

from pipeline.cli.export import main
from pipeline.config import RunConfig
from pipeline.data.preparing.prepare import prepare
from pipeline.data.windows import TokenWindows
from pipeline.export.litgpt import export, how_to_load
from pipeline.models import gpt
from pipeline.run.directory import RunDir
from tests.conftest import changed
from tests.support.exports import (
    LITGPT_FILES,
    PLAIN_FILES,
    loaded,
    logits_of_the_run,
    same_logits,
    tokens_of,
    trained,
    tree,
)


def test_litgpt_loads_the_trained_model(tiny: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    config = changed(tiny, param="mup", width=64, model_kv_heads=2)
    run = trained(config)
    assert main([str(run)]) == 0
    folder = run / "export"
    assert set(tree(folder)) == LITGPT_FILES | PLAIN_FILES
    assert litgpt.Config.from_checkpoint(folder) == gpt.litgpt_config(config.model, 64, 16)
    model = loaded(folder)
    same_logits(config, model)

    windows = TokenWindows(prepare(config.data, 300), "val", 16)[np.arange(8)]
    with torch.no_grad():
        loss = F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
    result = RunDir(run).result()
    assert result is not None
    assert loss.item() == pytest.approx(result.final["final_val_loss"], rel=1e-5)

    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [
        f"exported step 12 to {folder}: model.safetensors, model_config.yaml, tokenizer.json, tokenizer_config.json, "
        "torch/model.py, torch/model.safetensors, torch/settings.json, export.json",
        "torch/ instead of hf/: transformers' GPTNeoX comes nearest and has no qk-norm, key/value heads that several "
        "heads share",
    ]
    assert [line.partition(": ")[0] for line in printed[2:]] == ["litgpt", "torch"]
    for line in printed[2:]:
        names: dict[str, Any] = {"litgpt": litgpt, "pathlib": pathlib, "safetensors": safetensors, "runpy": runpy}
        exec(line.partition(": ")[2], names)
        same_logits(config, names["gpt"])


@pytest.mark.parametrize(
    ("model", "left_out"),
    [
        ({"tie_embeddings": True}, ""),  # neither library ties: two tensors of the same values
        (
            {"norm": "rmsnorm"},
            "torch/ instead of hf/: transformers' GPTNeoX comes nearest and has no RMSNorm",
        ),
        ({"train": "readout"}, ""),
    ],
)
def test_variants(tiny: RunConfig, tmp_path: Path, model: dict[str, Any], left_out: str) -> None:
    variant = {f"model_{key}": value for key, value in model.items()}
    config = changed(tiny, steps=3, model_qk_norm=False, **variant)
    exported = export(trained(config), tmp_path / "out")
    assert list(exported.left_out) == ([left_out] if left_out else [])
    same_logits(config, loaded(tmp_path / "out"))
    if not left_out:
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "hf")
        with torch.no_grad():
            found = theirs(tokens_of(config)).logits
        torch.testing.assert_close(found, logits_of_the_run(config), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The `srun` command is available")  # litgpt.LLM asks, where a test installed SLURM
def test_litgpts_own_commands_load_lit_model(tiny: RunConfig, tmp_path: Path) -> None:
    config = changed(tiny, steps=3)
    exported = export(trained(config), tmp_path / "out", lit_model=True)
    assert set(tree(exported.folder)) == LITGPT_FILES | PLAIN_FILES | {"lit_model.pth"}
    library, _, code = how_to_load(exported)[-1].partition(": ")
    assert library == "litgpt's API"
    precision = torch.get_float32_matmul_precision()
    try:
        llm = eval(code, {"litgpt": litgpt})
    finally:
        torch.set_float32_matmul_precision(precision)  # litgpt sets it for the whole process
    assert llm.preprocessor.tokenizer.eos_id == 0
    weights = safetensors.torch.load_file(exported.folder / "model.safetensors")
    loads = {name.removeprefix("_forward_module."): tensor for name, tensor in llm.model.state_dict().items()}
    assert loads.keys() == weights.keys()
    assert all(torch.equal(loads[name], weights[name].to(loads[name].dtype)) for name in weights)
    assert all(
        torch.equal(tensor, weights[name]) for name, tensor in torch.load(exported.folder / "lit_model.pth").items()
    )
