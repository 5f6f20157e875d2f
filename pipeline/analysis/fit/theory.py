"""What `theory` predicts for the family of curves that was measured."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pipeline.analysis.fit.fitted import Quantity
from pipeline.config import RunConfig
from pipeline.parameterization import rules
from pipeline.theory.edges import Claim, edges
from pipeline.theory.network import Setting


@dataclass(frozen=True)
class Predicted:
    """A predicted exponent, and how firmly it stands: derived, conjectured or observed (`parameterization.theory`)."""

    exponent: Fraction
    status: str
    source: str


def setting_of(config: RunConfig, **other: Any) -> Setting:
    """The theory's setting of a run, but for what is given. Raises `ValueError` where theory does not know it."""
    own: dict[str, Any] = {
        "optimizer": config.optimizer,
        "loss": config.loss,
        "readout_init": config.readout_init,
        "clipping": config.grad_clip is not None,
        **config.kind.theory(config),
    }
    param = other.pop("param", config.param)
    return Setting(rules.get(param), **{**own, **other})


def predicted(config: RunConfig, param: str, optimizer: str, loss: str) -> dict[Quantity, Predicted]:
    """Of the study's settings under another parameterization, optimizer and loss; quantities that theory has no
    exponent for are left out, all of them where it does not know the setting."""
    try:
        found = edges(setting_of(config, param=param, optimizer=optimizer, loss=loss))
    except ValueError:
        return {}
    claims: dict[Quantity, Claim] = {"optimal": found.optimal, "max_stable": found.max_stable}
    return {
        quantity: Predicted(claim.exponent, claim.status, claim.source)
        for quantity, claim in claims.items()
        if claim.exponent is not None
    }
