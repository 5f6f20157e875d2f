"""Parameter groups and the optimizer, from roles and a scaling."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from pipeline.config import RunConfig
from pipeline.entries.load import load
from pipeline.entries.optimizers import OPTIMIZERS
from pipeline.models.init import initialize_
from pipeline.models.roles import TensorSpec
from pipeline.scaling import Scaling


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    specs: Mapping[str, TensorSpec],
    scaling: Scaling,
    *,
    lr: float,
    weight_decay: float | None,
    weight_decay_scaling: Literal["inverse_lr", "constant"] = "inverse_lr",
) -> list[dict[str, Any]]:
    """One optimizer group per role and place: ``lr * factor`` and, under ``inverse_lr``, ``weight_decay / factor``.

    Parameters that do not require gradients are left out; every other one lands in exactly one group. Groups carry
    their role as ``name``. `weight_decay` None: they say nothing of it, so that the optimizer's own counts.
    """
    members: dict[tuple[str, float], list[nn.Parameter]] = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            spec = specs[name]
            members.setdefault((spec.role, scaling.lr(spec.role, spec.place)), []).append(parameter)
    scaled = weight_decay_scaling == "inverse_lr"
    return [
        {
            "name": role,
            "params": parameters,
            "lr": lr * factor,
        }
        | ({} if weight_decay is None else {"weight_decay": weight_decay / (factor if scaled else 1)})
        for (role, factor), parameters in members.items()
    ]


def apply_parameterization(
    model: nn.Module,
    specs: Mapping[str, TensorSpec],
    scaling: Scaling,
    *,
    lr: float,
    weight_decay: float | None = None,
    weight_decay_scaling: Literal["inverse_lr", "constant"] = "inverse_lr",
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Initialize any module under a parameterization, in place, and return its groups for AdamW, Adam or SGD.

    `specs` gives every parameter a role and a base initialization, by name; for modules of your own::

        specs = by_name(model, [*linear(model.first, "input", 0.1), *linear(model.last, "output", 0.05)])
        scaling = Scaling(rules.get("mup"), "adam", Width(n=1024, n_base=256, d_out=10))
        optimizer = torch.optim.AdamW(apply_parameterization(model, specs, scaling, lr=3e-3))

    `weight_decay` is decoupled, at the base width, and scaled as `weight_decay_scaling` says; without it the groups
    leave it to the optimizer: ``AdamW(groups, weight_decay=0.1)`` decays every tensor by 0.1.

    Raises `ValueError` if a parameter has no spec.
    """
    missing = [name for name, _ in model.named_parameters() if name not in specs]
    if missing:
        raise ValueError(f"no role for {', '.join(missing)}")
    initialize_(model, specs, scaling, seed)
    return parameter_groups(
        model.named_parameters(),
        specs,
        scaling,
        lr=lr,
        weight_decay=weight_decay,
        weight_decay_scaling=weight_decay_scaling,
    )


def build_optimizer(config: RunConfig, groups: list[dict[str, Any]]) -> Optimizer:
    """The optimizer of a run (`pipeline.entries.optimizers`) on these groups. Raises `KeyError` for an unknown name."""
    entry = OPTIMIZERS[config.optimizer]
    settings = {name: getattr(config, name) for name in entry.settings}
    optimizer: Optimizer = load(entry.build)(groups, **settings, **entry.options)
    return optimizer
