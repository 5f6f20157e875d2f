"""Gradient descent without autograd: the steps of torch's own, in float64, and what is recorded of them."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline import products
from pipeline.config import DataConfig, DiagnosticsConfig, ModelConfig, RunConfig
from pipeline.data.open import open_data
from pipeline.run.directory import RunDir
from pipeline.training import descent, trainer
from pipeline.training.descent import Descent
from pipeline.training.module import TrainingModule

STEPS = 12
RUN = RunConfig(
    width=96,
    base_width=64,
    lr=0.05,
    param="mup",
    optimizer="sgd",
    grad_clip=None,
    steps=STEPS,
    warmup_steps=0,
    lr_min_ratio=0.5,
    global_batch=32,
    val_sequences=8,
    embedding_init="constant",
    model=ModelConfig(kind="mlp", n_layer=4),
    data=DataConfig(format="digits"),
)


def reference(config: RunConfig) -> tuple[list[float], list[float], dict[str, Tensor]]:
    """Losses, gradient norms and the last weights of a plain loop in float64."""
    module = TrainingModule(config, open_data(config)).double()
    configured = module.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    batches = module.data.train.batches(first_step=0, micro_batch=config.global_batch, rank=0, world_size=1)
    losses, norms = [], []
    for _ in range(config.steps):
        x, targets = next(batches)
        h = x.double()
        for layer in module.model.layers:
            h = F.linear(h, layer.weight)
            h = h.relu() if config.model.activation == "relu" else h
        logits = F.linear(h, module.model.readout.weight)
        if config.loss == "mse":
            loss = (logits - F.one_hot(targets, 10)).square().sum(1).mean()
        else:
            loss = F.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in module.parameters()]).item())
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return losses, norms, {name: p.detach() for name, p in module.model.named_parameters()}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"model": ModelConfig(kind="mlp", n_layer=3, activation="linear")},
        {"weight_decay": 0.1},
        {"loss": "mse", "lr": 0.005, "model": ModelConfig(kind="mlp", n_layer=2)},
        {"width": 300},
    ],
    ids=["relu", "linear", "decay", "mse", "blocks"],
)
def test_steps_are_those_of_autograd(change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "ROWS", 128)  # so that a small weight is updated in several parts
    monkeypatch.setattr(descent, "SMALL", 2**14)  # those of width 96, not those of width 300
    monkeypatch.setattr(products, "FROM", 2**12)
    config = dataclasses.replace(RUN, out=str(tmp_path), **change)
    kept: list[TrainingModule] = []
    build = trainer.TrainingModule
    monkeypatch.setattr(trainer, "TrainingModule", lambda *a: kept.append(build(*a)) or kept[0])
    taken: list[Descent] = []
    step = Descent.__call__
    monkeypatch.setattr(Descent, "__call__", lambda self, *a: taken.append(self) or step(self, *a))
    trainer.train(config, show_progress=False)
    losses, norms, weights = reference(config)
    records = RunDir(config.run_dir).records()
    assert len(taken) == STEPS
    assert [r["loss"] for r in records] == pytest.approx(losses, rel=1e-5)
    assert [r["grad_norm"] for r in records] == pytest.approx(norms, rel=1e-5)
    for name, parameter in kept[0].model.named_parameters():
        scale = weights[name].abs().max().item()
        assert torch.allclose(parameter.double(), weights[name], rtol=0, atol=2e-6 * scale), name


def test_coordinate_checks_see_the_gradient_and_change_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, watched = (dataclasses.replace(RUN, out=str(tmp_path / name)) for name in ("plain", "watched"))
    watched = dataclasses.replace(watched, diagnostics=DiagnosticsConfig(interval=3))
    for config in (plain, watched):
        trainer.train(config, show_progress=False)
    ours, theirs = (RunDir(config.run_dir).records() for config in (watched, plain))
    assert [r["loss"] for r in ours] == [r["loss"] for r in theirs]
    seen = {key: value for key, value in ours[2].items() if key.startswith("gradient/")}
    by_autograd = dataclasses.replace(watched, out=str(tmp_path / "autograd"))
    monkeypatch.setattr(Descent, "suits", lambda module: False)
    trainer.train(by_autograd, show_progress=False)
    assert len(seen) == 4
    assert {key: RunDir(by_autograd.run_dir).records()[2][key] for key in seen} == pytest.approx(seen, rel=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "adam"},
        {"momentum": 0.9},
        {"grad_clip": 1.0},
        {"micro_batch": 16},
        {"precision": "bf16-mixed"},
    ],
)
def test_other_runs_are_not_its(change: dict[str, Any]) -> None:
    config = dataclasses.replace(RUN, weight_decay=None, **change)
    module = TrainingModule(config, open_data(config))
    assert not Descent.suits(module)
