"""Rules and roles -> explicit parameter groups, optimizer and learning-rate schedule."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from pipeline.config import RunConfig
from pipeline.parameterization.rules import ROLES, Family, Parameterization, Role, Width

FAMILY: Mapping[str, Family] = {"adamw": "adam", "sgd": "sgd"}


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    roles: Mapping[str, Role],
    parameterization: Parameterization,
    family: Family,
    width: Width,
    *,
    lr: float,
    weight_decay: float,
    weight_decay_scaling: Literal["inverse_lr", "constant"] = "inverse_lr",
) -> list[dict[str, Any]]:
    """One optimizer group per role: ``lr * factor`` and, under ``inverse_lr``, ``weight_decay / factor``.

    Parameters that do not require gradients are left out; every other one lands in exactly one group. Groups carry
    their role as ``name``.
    """
    members: dict[Role, list[nn.Parameter]] = {role: [] for role in ROLES}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            members[roles[name]].append(parameter)
    groups = []
    for role, parameters in members.items():
        if parameters:
            factor = parameterization.lr_factor(role, family, width)
            decay = weight_decay / factor if weight_decay_scaling == "inverse_lr" else weight_decay
            groups.append({"name": role, "params": parameters, "lr": lr * factor, "weight_decay": decay})
    return groups


def build_optimizer(config: RunConfig, groups: list[dict[str, Any]]) -> Optimizer:
    """AdamW with decoupled decay, or SGD without momentum, where torch's coupled decay is the decoupled one."""
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps)
    return torch.optim.SGD(groups)


def schedule(step: int, *, steps: int, warmup_steps: int, min_ratio: float) -> float:
    """Factor on every learning rate at the update after `step` updates: linear warm-up, then cosine to `min_ratio`.

    The first update already moves (1 / warmup_steps of the peak); the last one is taken at `min_ratio`.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, steps - 1 - warmup_steps))
    return min_ratio + (1 - min_ratio) * (1 + math.cos(math.pi * progress)) / 2
