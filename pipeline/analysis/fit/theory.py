"""What `theory` predicts for the family of curves that was measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from pipeline.analysis.fit.fitted import QUANTITIES, Quantity
from pipeline.analysis.study.clipping import Clipping
from pipeline.config import RunConfig
from pipeline.parameterization import rules
from pipeline.theory.edges import Claim, edges
from pipeline.theory.network import Setting


@dataclass(frozen=True)
class Predicted:
    """A predicted exponent, and how firmly it stands: derived, conjectured or observed (`theory.predict`)."""

    exponent: Fraction
    status: str
    source: str
    clipping: Clipping | None = None
    """How often it acted in the runs, where the exponent hangs on it; counted on only where it always did."""
    otherwise: Fraction | None = None
    """The exponent if that were not so; None: no bound."""


def setting_of(config: RunConfig, **other: Any) -> Setting:
    """The theory's setting of a run, but for what is given: that clipping acts (`Clipping`) no config can tell. Raises
    `ValueError` where theory does not know it."""
    own: dict[str, Any] = {
        "optimizer": config.optimizer,
        "muon_scale": config.muon_scale,
        "loss": config.loss,
        "readout_init": config.readout_init,
        **config.kind.theory(config),
    }
    param = other.pop("param", config.param)
    return Setting(rules.get(param), **{**own, **other})


def predicted(
    config: RunConfig,
    param: str,
    optimizer: str,
    loss: str,
    clipping: Mapping[Quantity, Clipping] = MappingProxyType({}),
) -> dict[Quantity, Predicted]:
    """Of the study's settings under another parameterization, optimizer and loss; quantities that theory has no
    exponent for are left out, all of them where it does not know the setting. `clipping`: of the runs that decide a
    quantity; what is left out was not clipped."""
    try:
        found = [
            edges(setting_of(config, param=param, optimizer=optimizer, loss=loss, clipping=acts))
            for acts in (False, True)
        ]
    except ValueError:
        return {}
    known: dict[Quantity, Predicted] = {}
    for quantity in QUANTITIES:
        seen = clipping.get(quantity)
        always = seen is not None and seen.acts == "always"
        claims: list[Claim] = [getattr(one, quantity) for one in found]
        claim, otherwise = claims[always], claims[not always].exponent
        if claim.exponent is not None:
            hangs = seen if otherwise != claim.exponent else None
            known[quantity] = Predicted(claim.exponent, claim.status, claim.source, hangs, otherwise)
    return known
