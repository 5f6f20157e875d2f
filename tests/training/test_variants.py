"""Runs whose model is a variant: what is not trained stays as it starts, and an interrupted run goes on as if nothing
had happened."""

import dataclasses
from typing import Any

import pytest
import torch

from pipeline.config import DataConfig, DiagnosticsConfig, ModelConfig, RunConfig
from pipeline.models.build import build
from pipeline.models.init import initial_values
from pipeline.run.directory import RunDir
from pipeline.scaling import scaling_of
from pipeline.training.checkpoint.files import Checkpoint
from pipeline.training.describe import describe
from pipeline.training.trainer import train
from tests.conftest import changed
from tests.training.test_resume import cut_short
from tests.training.test_trainer import curve

VARIANTS: dict[str, dict[str, Any]] = {
    "gpt, readout": {"train": "readout"},
    "gpt, fixed input": {"train": "no_input", "norm": "rmsnorm"},
    "gpt, tied": {"tie_embeddings": True},
    "mlp, readout": {"train": "readout", "bias": True, "norm": "rmsnorm"},
    "mlp, fixed input": {"train": "no_input", "bias": True, "residual": True},
    "mlp, normalized logits": {"logit_norm": "layernorm", "norm": "layernorm"},
}


def variant(tiny: RunConfig, name: str) -> RunConfig:
    config = changed(tiny, grad_clip=0.05, diagnostics=DiagnosticsConfig(first=2, spectra=True, sharpness_interval=6))
    if name.startswith("gpt"):
        return dataclasses.replace(config, model=dataclasses.replace(config.model, **VARIANTS[name]))
    model = ModelConfig(kind="mlp", n_layer=3, **VARIANTS[name])
    return dataclasses.replace(config, width=64, model=model, data=DataConfig("digits", "digits"), loss="mse")


@pytest.mark.parametrize("name", VARIANTS)
def test_it_trains_what_it_says_and_resumes(name: str, tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = variant(tiny, name)
    undisturbed = changed(config, study="undisturbed")
    train(undisturbed, show_progress=False)
    cut_short(config, 6, monkeypatch)
    assert train(config, show_progress=False).status == "completed"
    assert curve(config) == curve(undisturbed)
    records = RunDir(config.run_dir).records()

    model, specs = build(config)
    start, last = (
        initial_values(model, specs, scaling_of(config), config.seed),
        Checkpoint(RunDir(config.run_dir).checkpoint),
    )
    weights = RunDir(config.run_dir).weights()
    moments = {key.split(".", 2)[2] for key in last.shapes if key.startswith("optimizer.")}
    for tensor, parameter in model.named_parameters():
        moved = not torch.equal(last.tensor(f"model.{tensor}"), start(tensor))
        assert moved == weights[tensor]["trained"] == parameter.requires_grad == (tensor in moments), tensor
        key = f"effective/{tensor}"
        if key in records[0]:
            assert (records[0][key] > 0) == moved, tensor


def test_a_dry_run_says_what_is_not_trained(tiny: RunConfig) -> None:
    lines = describe(variant(tiny, "mlp, readout")).splitlines()
    rows = {line.split()[1]: line.split()[2] for line in lines[-5:]}
    assert rows == {"input": "not", "vector": "not", "hidden": "not", "output": "0.01", "finite": "0.01"}
    assert any(line.split()[1:] == ["parameters", f"{64 * 65 + 64 * 65 + 2 * 64 + 650:,}"] for line in lines if line)
