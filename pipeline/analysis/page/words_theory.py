"""Theory in words: its exponents, and whether its clipping is that of the runs."""

from fractions import Fraction

from pipeline.analysis.fit.fitted import Quantity
from pipeline.analysis.fit.study_fit import GroupFit
from pipeline.analysis.page.words import MINUS
from pipeline.analysis.study.clipping import Clipping

_AT: dict[Quantity, tuple[str, str]] = {
    "optimal": ("optimum", "best learning rates"),
    "max_stable": ("stability edge", "largest stable learning rates"),
}


def fraction(value: Fraction | None) -> str:
    return "no bound" if value is None else str(value).replace("-", MINUS)


def share(clipping: Clipping) -> str:
    """``12 % to 60 %`` of the steps, over the widths."""
    low, high = (_percent(value) for value in clipping.span)
    return low if low == high else f"{low} to {high}"


def _percent(value: float) -> str:
    """What is neither none nor all does not round to it."""
    if 0 < value < 0.005:
        return "< 1 %"
    return "> 99 %" if 0.995 <= value < 1 else f"{100 * value:.0f} %"


def clipping(group: GroupFit) -> list[str]:
    """Where theory's exponent hangs on clipping: what the runs did, and what was taken."""
    said = []
    for quantity, claim in group.predicted.items():
        (name, where), acts = _AT[quantity], "never" if claim.clipping is None else claim.clipping.acts
        if claim.clipping is None or acts == "never" or not group.fitted.laws[quantity].estimable:
            continue
        otherwise = fraction(claim.otherwise)
        if acts == "unknown":
            text = f"Whether clipping acted is not recorded: theory for the {name} is without it; with it {otherwise}."
        elif acts == "always":
            text = (
                f"At the {where} clipping acted in nearly every step ({share(claim.clipping)}): theory for the {name} "
                f"counts on it; without it {otherwise}."
            )
        else:
            text = (
                f"At the {where} clipping acted in {share(claim.clipping)} of the steps, not in every one: theory for "
                f"the {name} is without it; in every step {otherwise}."
            )
        said.append(text)
    return said
