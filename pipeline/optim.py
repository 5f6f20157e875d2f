"""Parameter groups and the optimizer, from roles and a scaling."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from pipeline.config import RunConfig
from pipeline.entries.load import load
from pipeline.entries.optimizers import MUON_SCALES, OPTIMIZERS
from pipeline.models.init import initialize_
from pipeline.models.roles import TensorSpec
from pipeline.parameterization.axes import axes_of
from pipeline.scaling import Scaling, WeightDecayScaling


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    specs: Mapping[str, TensorSpec],
    scaling: Scaling,
    *,
    lr: float,
    weight_decay: float | None,
    weight_decay_scaling: WeightDecayScaling = "inverse_lr",
    eps: float | None = None,
) -> list[dict[str, Any]]:
    """One optimizer group per role and place: ``lr * factor`` and, under ``inverse_lr``, ``weight_decay / factor``
    (`Scaling.decay` has the others).

    Parameters that do not require gradients are left out; every other one lands in exactly one group. Groups carry
    their role as ``name``; matrices that Muon is to split say so as ``blocks``. `weight_decay` and `eps` None: they say
    nothing of it, so that the optimizer's own counts. `eps` is the base model's.
    """
    members: dict[tuple[Any, ...], list[nn.Parameter]] = {}
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        spec = specs[name]
        at = spec.role, spec.place
        settings: dict[str, Any] = {"name": spec.role, "lr": lr * scaling.lr(*at)}
        if weight_decay is not None:
            settings["weight_decay"] = scaling.decay(weight_decay, *at, weight_decay_scaling, lr)
        if eps is not None:
            settings["eps"] = eps * scaling.eps(*at)
        if spec.blocks and scaling.family_of(spec.role) in MUON_SCALES.values():
            settings["blocks"] = spec.blocks
        members.setdefault(tuple(settings.items()), []).append(parameter)
    return [{**dict(settings), "params": parameters} for settings, parameters in members.items()]


def apply_parameterization(
    model: nn.Module,
    specs: Mapping[str, TensorSpec],
    scaling: Scaling,
    *,
    lr: float,
    weight_decay: float | None = None,
    weight_decay_scaling: WeightDecayScaling = "inverse_lr",
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Initialize any module under a parameterization, in place, and return its groups for AdamW, Adam, SGD or, with
    ``Scaling(..., hidden="muon")``, `pipeline.muon.MuonBeside`.

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
    if "betas" in settings:
        settings["betas"] = axes_of(config).betas(config.betas)
    optimizer: Optimizer = load(entry.build)(groups, **settings, **entry.options)
    return optimizer
