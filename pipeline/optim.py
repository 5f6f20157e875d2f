"""Scaling and roles -> explicit parameter groups, optimizer and learning-rate schedule."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from pipeline.config import RunConfig
from pipeline.models.init import initialize_
from pipeline.models.roles import TensorSpec
from pipeline.scaling import Scaling


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    specs: Mapping[str, TensorSpec],
    scaling: Scaling,
    *,
    lr: float,
    weight_decay: float,
    weight_decay_scaling: Literal["inverse_lr", "constant"] = "inverse_lr",
) -> list[dict[str, Any]]:
    """One optimizer group per role and place: ``lr * factor`` and, under ``inverse_lr``, ``weight_decay / factor``.

    Parameters that do not require gradients are left out; every other one lands in exactly one group. Groups carry
    their role as ``name``.
    """
    members: dict[tuple[str, float], list[nn.Parameter]] = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            spec = specs[name]
            members.setdefault((spec.role, scaling.lr(spec.role, spec.place)), []).append(parameter)
    return [
        {
            "name": role,
            "params": parameters,
            "lr": lr * factor,
            "weight_decay": weight_decay / factor if weight_decay_scaling == "inverse_lr" else weight_decay,
        }
        for (role, factor), parameters in members.items()
    ]


def apply_parameterization(
    model: nn.Module,
    specs: Mapping[str, TensorSpec],
    scaling: Scaling,
    *,
    lr: float,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Initialize any module under a parameterization, in place, and return its groups for AdamW, Adam or SGD.

    `specs` gives every parameter a role and a base initialization, by name; for modules of your own::

        specs = by_name(model, [*linear(model.first, "input", 0.1), *linear(model.last, "output", 0.05)])
        scaling = Scaling(rules.get("mup"), "adam", Width(n=1024, n_base=256, d_out=10))
        optimizer = torch.optim.AdamW(apply_parameterization(model, specs, scaling, lr=3e-3))

    Raises `ValueError` if a parameter has no spec.
    """
    missing = [name for name, _ in model.named_parameters() if name not in specs]
    if missing:
        raise ValueError(f"no role for {', '.join(missing)}")
    initialize_(model, specs, scaling, seed)
    return parameter_groups(model.named_parameters(), specs, scaling, lr=lr, weight_decay=weight_decay)


def build_optimizer(config: RunConfig, groups: list[dict[str, Any]]) -> Optimizer:
    """AdamW with decoupled decay, Adam without any, or SGD; without momentum, SGD's coupled decay is the decoupled one."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=config.momentum)
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, betas=config.betas, eps=config.eps)
    return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps)


def schedule(step: int, *, steps: int, warmup_steps: int, min_ratio: float) -> float:
    """Factor on every learning rate at the update after `step` updates: linear warm-up, then cosine to `min_ratio`.

    The first update already moves (1 / warmup_steps of the peak); the last one is taken at `min_ratio`.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, steps - 1 - warmup_steps))
    return min_ratio + (1 - min_ratio) * (1 + math.cos(math.pi * progress)) / 2
