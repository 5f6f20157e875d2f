"""Why a tensor departs: the usual cause of what was found, in words."""

from pipeline.audit.judge import Evidence, Finding, Named
from pipeline.audit.layout import End
from pipeline.parameterization.rules import Role

NEAR = 0.2


def cause(evidence: Evidence, named: Named, finding: Finding) -> str:
    """The usual one, or nothing where it is none of those known."""
    match finding.quantity:
        case "decay":
            product = finding.found - finding.expected + named.offset
            return f"decay not rescaled: what is decayed per step, lr * wd, goes like n^{product:.2f}"
        case "eps":
            return "eps not rescaled: gradients fall below it as the width grows, and with them the updates"
        case "attention":
            if finding.found > finding.expected:
                return "attention scaled by 1/sqrt(d), where queries and keys that learn together want 1/d"
            return "attention scaled by 1/d, where this parameterization's queries and keys want 1/sqrt(d)"
        case "beta1" | "beta2":
            return f"{finding.quantity} differs between widths"
        case "update":
            return "grows though its std and rate are right: look for a multiplier that stands behind its module"
    end = next(end for end in evidence.ends if end.label == finding.label)
    of = _rate if finding.quantity == "rate" else _std
    said = of(evidence, named, end, finding.found, finding.expected)
    multiplier = evidence.exponent("multiplier", end.label)
    if said or multiplier is None or abs(multiplier.value) < NEAR:
        return said
    counterpart = {"std": "std", "rate": "learning rate"}[finding.quantity]
    size = f"n^{multiplier.value:.1f}"
    return f"a multiplier in the forward pass goes like {size}, and its {counterpart} does not make up for it"


def _rate(evidence: Evidence, named: Named, end: End, found: float, expected: float) -> str:
    p, offset = named.parameterization, named.offset
    own, base = expected - offset, found - offset  # without the rate's that all share
    rule = p.lr.get(evidence.family(end), {}).get("hidden")  # type: ignore[call-overload]
    hidden = 0.0 if rule is None else evidence.slope(rule)
    if end.tied:
        return _TIED
    if end.inner and evidence.family(end) == "muon" and found > expected:
        return "fixed KV heads: a scale of Muon that does not count the fan-in; it takes sqrt(fan_out / fan_in)"
    if own and abs(base - 2 * own) < NEAR:
        return "rate scaled twice: by the optimizer's groups and once more, or by a multiplier too"
    if hidden and abs(base - hidden) < NEAR:
        wrongly: dict[Role, str] = {
            "vector": "gains and biases counted as hidden",
            "input": "embedding scaled by the optimizer's LR of hidden matrices",
            "finite": "counted as hidden, although nothing of it grows",
        }
        if end.role in wrongly:
            return wrongly[end.role]
    if own and abs(base) < NEAR:
        if end.role == "output":
            return "the readout is left at the base rate"
        return "left at the base rate: it is in no scaled group"
    if end.role in ("vector", "finite") and own == 0 and base < -NEAR:
        return "scaled, although what does not sum over the width keeps its rate"
    return ""


def _std(evidence: Evidence, named: Named, end: End, found: float, expected: float) -> str:
    multiplier = evidence.exponent("multiplier", end.label)
    multiplied = multiplier is not None and abs(multiplier.value) > NEAR
    if end.tied and end.role == "output":
        return _TIED
    if end.inner and abs(found - evidence.slope(named.parameterization.init["output"])) < NEAR:
        return "fixed KV heads (or a router) initialized as a readout, which starves what reads them"
    if end.role == "output" and found < expected - NEAR:
        return (
            "shrunk twice: by its std and by a multiplier on the logits" if multiplied else "its std shrinks too fast"
        )
    if abs(found) < NEAR and expected < -NEAR:
        return "one std at every width (initializer_range), although the sum over the fan-in grows"
    if end.role == "output" and abs(found + 0.5) < NEAR:
        return "SP readout: std 1/sqrt(fan_in), torch's default, and neither 1/fan_in, zero, nor 1/m on the logits"
    if end.role == "input" and found < -NEAR:
        return "embedding initialized by its width, as if it summed over it"
    if multiplied:
        return ""
    return f"starts too {'large' if found > expected else 'small'} as the width grows"


_TIED = (
    "tied head: one tensor is embedding and readout, whose two ends have different rules; it takes 1/m on the logits, "
    "and the embedding's std and rate"
)
