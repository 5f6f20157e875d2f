"""muP against an independent implementation, the package `mup` (Yang et al. 2022), on the same MLP.

The package keeps a forward multiplier: its `MuReadout` computes W x / m, with m the width over the base width. Here no
multiplier is in the forward pass; the two are the same network with W' = W / m for the readout. A gradient step on W,
seen through W', is smaller by 1 / m because W' is, and under SGD once more because the gradient of W is 1 / m times
that of W'; Adam does not see that second factor. So a learning rate lr of W is lr / m^2 of W' under SGD and lr / m
under Adam.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mup
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu
from torch.optim import Optimizer

from pipeline.config import ModelConfig, RunConfig
from pipeline.data.vectors import Examples, digits
from pipeline.entries import optimizers
from pipeline.losses import linear_loss
from pipeline.models import mlp
from pipeline.optim import apply_parameterization, build_optimizer
from pipeline.parameterization import rules
from pipeline.parameterization.rules import Width
from pipeline.scaling import Scaling

D_IN, D_OUT, BASE, BATCH, STEPS = 64, 10, 32, 64, 8
MODEL = ModelConfig(kind="mlp", n_layer=4)
# Narrower than the base width, equal, and wider; 3 is no power of two, so that no factor is exact in floating point.
WIDTHS = [16, 32, 96, 256]
# Adam's epsilon would be compared with gradients that differ by the factor m: so small that it never counts.
TINY = 1e-30


class Reference(nn.Module):
    """The package's way to write the MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(fan_in, width, bias=False) for fan_in in [D_IN] + [width] * (MODEL.n_layer - 2)
        )
        self.readout = mup.MuReadout(width, D_OUT, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = relu(layer(x))
        return self.readout(x)


@dataclass(frozen=True)
class Pair:
    """Both implementations of one network, with their optimizers."""

    ours: mlp.MLP
    optimizer: Optimizer
    theirs: Reference
    their_optimizer: Optimizer


OPTIMIZERS: Mapping[str, RunConfig] = {
    "sgd": RunConfig(optimizer="sgd", lr=0.05, weight_decay=0.0),
    "sgd-momentum": RunConfig(optimizer="sgd", lr=0.02, momentum=0.9, weight_decay=0.0),
    "sgd-decay": RunConfig(optimizer="sgd", lr=0.05, weight_decay=0.5),
    "adam": RunConfig(optimizer="adam", lr=0.003, weight_decay=0.0, eps=TINY),
    "adamw": RunConfig(optimizer="adamw", lr=0.003, weight_decay=0.5, eps=TINY),
}


def reference(width: int) -> Reference:
    net = Reference(width).double()
    mup.set_base_shapes(net, Reference(BASE), delta=Reference(BASE + 1))
    return net


def their_optimizer(net: Reference, config: RunConfig) -> Optimizer:
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        return mup.MuSGD(net.parameters(), momentum=config.momentum, **common)
    made = mup.MuAdam if config.optimizer == "adam" else mup.MuAdamW
    return made(net.parameters(), betas=config.betas, eps=config.eps, **common)


def build(width: int, config: RunConfig, seed: int = 0) -> Pair:
    """The same function twice: the package's net starts from our weights, its readout from m times ours."""
    ours = mlp.build(MODEL, width, D_IN, D_OUT).double()
    scaling = Scaling(rules.get("mup"), optimizers.OPTIMIZERS[config.optimizer].family, Width(width, BASE, D_OUT))
    assert config.weight_decay is not None
    groups = apply_parameterization(
        ours, mlp.tensor_specs(ours, BASE), scaling, lr=config.lr, weight_decay=config.weight_decay, seed=seed
    )
    theirs = reference(width)
    with torch.no_grad():
        for weight, source in zip(theirs.parameters(), ours.parameters(), strict=True):
            weight.copy_(source)
        theirs.readout.weight.mul_(width / BASE)
    return Pair(ours, build_optimizer(config, groups), theirs, their_optimizer(theirs, config))


def settings(net: nn.Module, optimizer: Optimizer) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay by parameter name."""
    names = {parameter: name for name, parameter in net.named_parameters()}
    return {names[p]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_groups_have_the_packages_effective_rates(name: str, width: int) -> None:
    config, m = OPTIMIZERS[name], width / BASE
    pair = build(width, config)
    ours, theirs = settings(pair.ours, pair.optimizer), settings(pair.theirs, pair.their_optimizer)
    assert ours.keys() == theirs.keys() == {name for name, _ in pair.ours.named_parameters()}
    for tensor, (lr, decay) in theirs.items():
        fold = 1.0
        if tensor == "readout.weight":
            fold = m**-2 if config.optimizer == "sgd" else m**-1
        assert ours[tensor][0] == pytest.approx(lr * fold, rel=1e-12)
        # W and W' decay by the same share of themselves: lr * decay needs no folding
        assert ours[tensor][0] * ours[tensor][1] == pytest.approx(lr * decay, rel=1e-12)


@pytest.mark.parametrize("width", WIDTHS)
def test_initial_scales_are_the_packages(width: int) -> None:
    pair, theirs = build(width, OPTIMIZERS["sgd"]), reference(width)
    torch.manual_seed(0)
    for weight in theirs.parameters():
        mup.init.kaiming_normal_(weight, nonlinearity="relu")
    for ours, weight in zip(pair.ours.parameters(), theirs.parameters(), strict=True):
        fold = BASE / width if weight is theirs.readout.weight else 1.0
        # each root mean square of N normal draws has a relative standard error of 1 / sqrt(2 N); 4 of their
        # difference's
        error = 4 / math.sqrt(ours.numel())
        assert ours.square().mean().sqrt().item() == pytest.approx(
            weight.square().mean().sqrt().item() * fold, rel=error
        )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_gives_the_packages_function(name: str, width: int) -> None:
    """The strongest form: with equal initial functions, the logits stay equal, step by step."""
    pair = build(width, OPTIMIZERS[name])
    train = Examples(*digits("train"))
    probe = train.x[:BATCH].double()

    def logits() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return pair.ours(probe) @ pair.ours.readout.weight.T, pair.theirs(probe)

    start = logits()
    for step in range(STEPS):
        # rounding only, 1e-15 as measured, with room for other BLAS and for Adam, which magnifies the rounding of a
        # gradient near zero; one learning rate wrong by 1 % ends up 1e-3 off or more
        ours, theirs = logits()
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8 * scale)
        x, y = train[np.arange(step * BATCH, (step + 1) * BATCH)]
        x = x.double()
        pair.optimizer.zero_grad()
        linear_loss(pair.ours(x), pair.ours.readout.weight, y).loss.backward()
        pair.optimizer.step()
        pair.their_optimizer.zero_grad()
        cross_entropy(pair.theirs(x), y).backward()
        pair.their_optimizer.step()
    ours, theirs = logits()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8 * theirs.abs().max().item())
    # the nets learned, so that the comparison says something about every layer
    assert (theirs - start[1]).abs().max() > 0.1 * start[1].abs().max()
