"""The checks of a run's optimizer, schedule and rules along batch, horizon and decay."""

from typing import Any

from pipeline.entries.optimizers import OPTIMIZERS
from pipeline.entries.schedules import SCHEDULES
from pipeline.errors import RequestError, require
from pipeline.parameterization import rules
from pipeline.parameterization.axes import BATCH_RULES, STEPS_RULES, axes_of


def check_optimization(c: Any) -> None:
    """Of a `RunConfig`. Raises `RequestError` for the first setting that cannot be."""
    require(all(0 <= b < 1 for b in c.betas), f"--betas must be in [0, 1), got {list(c.betas)}")
    for key in ("momentum", "muon_momentum"):
        require(0 <= getattr(c, key) < 1, f"--{key} must be in [0, 1), got {getattr(c, key):g}")
    require(0 < c.decay_fraction <= 1, f"--decay_fraction must be above 0 and at most 1, got {c.decay_fraction:g}")
    _check_rule(c)
    _check_belonging(c)
    _check_axes(c)
    _check_decay(c)


def _check_rule(c: Any) -> None:
    entry = OPTIMIZERS[c.optimizer]
    if not rules.get(c.param).knows(entry.families(c.muon_scale)):
        known = " and ".join(_known(c))
        raise RequestError(f"--param {c.param} has no rule for --optimizer {c.optimizer}: it is for {known}")
    require(
        not (entry.matrices and c.strategy.startswith("deepspeed")),
        f"--optimizer {c.optimizer} needs whole matrices, which --strategy {c.strategy} takes apart: use ddp or fsdp",
    )


def _known(c: Any) -> list[str]:
    param = rules.get(c.param)
    return [name for name, entry in OPTIMIZERS.items() if param.knows(entry.families(c.muon_scale))]


def _default(c: Any, key: str) -> Any:
    return getattr(type(c), key)


def _check_belonging(c: Any) -> None:
    """What another optimizer or schedule has is at its default."""
    entry = OPTIMIZERS[c.optimizer]
    require(c.momentum == 0 or "momentum" in entry.settings, f"--momentum is SGD's: {c.optimizer} has --betas")
    for key in ("muon_scale", "muon_momentum"):
        require(
            key in entry.settings or getattr(c, key) == _default(c, key),
            f"--{key} is Muon's, not of --optimizer {c.optimizer}",
        )
    require(
        c.eps_scaling == "none" or "eps" in entry.settings,
        f"--eps_scaling {c.eps_scaling} scales Adam's eps, which --optimizer {c.optimizer} does not have",
    )
    for key in ("decay_fraction", "decay_shape"):
        require(
            key in SCHEDULES[c.schedule].settings or getattr(c, key) == _default(c, key),
            f"--{key} is for --schedule wsd, not {c.schedule}",
        )


def _check_axes(c: Any) -> None:
    entry = OPTIMIZERS[c.optimizer]
    rules_of = {"batch_scaling": (BATCH_RULES, "base_batch"), "steps_scaling": (STEPS_RULES, "base_steps")}
    for key, (table, base) in rules_of.items():
        name = getattr(c, key)
        if name == "none":
            continue
        rule = table[name]
        require(
            rule.families >= set(entry.families(c.muon_scale).values()),
            f"--{key} {name} has no rule for --optimizer {c.optimizer}",
        )
        require(getattr(c, base) is not None, f"--{key} {name} needs --{base}, where it changes nothing")
        require(
            not rule.decay or c.weight_decay_scaling in ("inverse_lr", "constant"),
            f"--{key} {name} scales weight decay itself: --weight_decay_scaling inverse_lr or constant",
        )
    for key in ("base_batch", "base_steps"):
        require(getattr(c, key) is None or getattr(c, key) >= 1, f"--{key} must be at least 1, got {getattr(c, key)}")
    horizon = c.steps_scaling != "none" or c.weight_decay_scaling == "timescale"
    for key, used, needed in (
        ("base_batch", c.batch_scaling != "none" or horizon, "--batch_scaling or what --base_steps needs"),
        ("base_steps", horizon, "--steps_scaling or --weight_decay_scaling timescale"),
        ("steps_exponent", c.steps_scaling == "power", "--steps_scaling power"),
    ):
        require(used or getattr(c, key) == _default(c, key), f"--{key} needs {needed}")
    betas = axes_of(c).betas(c.betas)
    require(
        all(beta >= 0 for beta in betas),
        f"--betas {list(c.betas)} become {[round(beta, 4) for beta in betas]} under --batch_scaling {c.batch_scaling} "
        f"and --steps_scaling {c.steps_scaling}: the run is too far from the base one",
    )


def _check_decay(c: Any) -> None:
    entry = OPTIMIZERS[c.optimizer]
    require(
        not c.weight_decay or entry.decouples(c),
        "--weight_decay is decoupled: use --optimizer adamw or muon, or sgd or muon_sgd without momentum",
    )
    require(
        c.weight_decay_scaling != "timescale" or c.base_steps is not None,
        "--weight_decay_scaling timescale needs --base_steps, where it changes nothing",
    )
