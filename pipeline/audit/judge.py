"""The parameterization that measured tensors amount to: width exponents of what abc-symmetry leaves invariant, beside
those of every entry of `pipeline.parameterization.rules`.

A multiplier in the forward pass, the initial std and the learning rate trade off: with multiplier a, std s and rate r,
``a s`` and ``a r`` (Adam, Muon) or ``a^2 r`` (SGD) say what a model does (Yang & Hu 2021, abc-parameterizations). They
are compared, never how they are spelled. Shapes: W widths, S seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from pipeline.analysis.inside.slopes import Slopes, fit_slopes
from pipeline.audit.layout import End
from pipeline.audit.measure import Values
from pipeline.audit.optimizers import Response
from pipeline.parameterization.rules import HALF, TABLE, Factor, Parameterization, Role, Width

TOLERANCE = 0.2
"""Of an exponent, whose clean values are 1/2 apart."""
GROWS = 0.4
"""Of an update's exponent, which finite widths and few steps bend, and which has to stand out of three errors."""
NOISE = 1e-5
"""Of the largest gradient: smaller ones are rounding, as that of a bias before a batch norm."""
OFFSETS = (0.0, -0.5, -1.0, 0.5)
"""Exponents of one learning rate for all, on top of a parameterization."""


@dataclass(frozen=True)
class Exponent:
    """A width exponent with its standard error (nan: one seed and two widths) and the values behind it."""

    value: float
    error: float
    means: tuple[float, ...]
    """Per width, geometric over seeds."""

    def differs(self, expected: float, tolerance: float = TOLERANCE) -> bool:
        """By more than `tolerance` and, up to what would hide a step of 1/2, twice its error."""
        error = 0.0 if math.isnan(self.error) else self.error
        return abs(self.value - expected) > max(tolerance, min(2 * error, 0.3))


@dataclass(frozen=True)
class Finding:
    """A departure: what of a tensor goes with the width otherwise than it should."""

    label: str
    quantity: str
    """std, rate, decay, eps, attention, update or beta."""
    found: float
    expected: float


@dataclass(frozen=True)
class Evidence:
    """All that was measured of the builds."""

    widths: tuple[int, ...]
    seeds: int
    ends: Sequence[End]
    responses: Mapping[str, Response]
    runs: Mapping[tuple[int, int], Values]
    """By width and seed."""
    outputs: int = 1
    """d_out: of the logits."""

    def exponent(self, quantity: str, label: str) -> Exponent | None:
        """None where a width lacks it, or where it is zero."""
        return self._exponents.get((quantity, label))

    @cached_property
    def _exponents(self) -> dict[tuple[str, str], Exponent]:
        keys = list(dict.fromkeys(key for values in self.runs.values() for key in values))
        array = np.array(
            [[[self.runs[w, s].get(k, math.nan) for k in keys] for s in range(self.seeds)] for w in self.widths]
        )
        fits: Slopes = fit_slopes(np.array(self.widths), array)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(np.where(array > 0, array, np.nan))
        found = {}
        for k, key in enumerate(keys):
            if fits.n_widths[k] == len(self.widths):
                means = tuple(float(np.exp(np.nanmean(logs[w, :, k]))) for w in range(len(self.widths)))
                found[key] = Exponent(float(fits.exponent[k]), float(fits.standard_error[k]), means)
        return found

    def folded(self, quantity: str, end: End, bare: bool = False) -> Exponent | None:
        """std or speed; `bare`: without what the size of the input adds to a readout's."""
        found, x = self.exponent(quantity, end.label), self.exponent("input", end.label)
        if found is None or x is None or not bare:
            return found
        times = 2 if quantity == "speed" and self.family(end) == "sgd" else 1
        return replace(found, value=found.value - times * x.value)

    def family(self, end: End) -> str:
        return self.responses[end.tensor].family

    def slope(self, factor: Factor) -> float:
        """Of a factor of the table over these widths."""
        at = [factor.at(Width(w, self.widths[0], self.outputs)) for w in self.widths]
        return float(np.polyfit(np.log(self.widths), np.log(at), 1)[0])

    # -----------------------------------------------------------------------------------------------------------------
    # What a parameterization asks of an end

    def std_expected(self, p: Parameterization, end: End) -> tuple[float, ...]:
        """Exponents of the initial std that are right, of inputs those of either initialization of embeddings. None:
        anything is."""
        std = self.exponent("std", end.label)
        if std is None or end.role == "finite":
            return ()
        if end.role == "vector":  # gains start at one, biases at zero or small: only growth is wrong
            return (0.0,) if std.value > TOLERANCE else ()
        if end.role == "input":
            return tuple(dict.fromkeys(self.slope(p.starts("input", init)) for init in ("constant", "neox")))
        return (self.slope(p.init[end.role]),)

    def rate_expected(self, p: Parameterization, end: End) -> float | None:
        """None where the table has no rule for this optimizer and role."""
        family = self.family(end)
        if end.inner and family == "sgd":
            return None
        factor = p.lr.get(family, {}).get(end.role)  # type: ignore[call-overload]
        return None if factor is None else self.slope(factor)

    def update_expected(self, p: Parameterization, end: End, offset: float) -> float | None:
        """Of the effective update |(W - W_0) x|, aligned: every rate c gives fan_in^1 n^-c under Adam, n^-c under
        Muon; of SGD no more is said than what a rule keeps: theory knows it (`pipeline theory`)."""
        rate = self.rate_expected(p, end)
        if rate is None or self.family(end) == "sgd":
            return None
        return rate + offset + (end.fan_in if self.family(end) == "adam" else 0.0)


@dataclass(frozen=True)
class Named:
    """A parameterization beside the evidence."""

    parameterization: Parameterization
    offset: float
    """Of all learning rates, as an exponent."""
    findings: tuple[Finding, ...]
    unjudged: frozenset[Role]
    """Roles of which it has no rule for the rate, under their optimizer."""
    score: float
    """Sum over roles and quantities of the share of tensors that depart, or of whose rate it says nothing."""

    @property
    def name(self) -> str:
        return self.parameterization.name


def candidates(evidence: Evidence) -> list[Named]:
    """Every entry of the table, the best first. Ties: a rate without a factor, then the table's order."""
    found = [named(evidence, p, offset) for offset in OFFSETS for p in TABLE.values()]
    return sorted(found, key=lambda one: one.score + (0.4 if one.offset else 0.0))


def named(evidence: Evidence, p: Parameterization, offset: float = 0.0) -> Named:
    """How the builds depart from `p` with every rate times n^offset."""
    findings: list[Finding] = []
    shares: dict[tuple[Role, str], list[bool]] = {}
    unjudged: set[Role] = set()

    def check(end: End, quantity: str, found: Exponent | None, expected: Sequence[float]) -> None:
        if found is None or not expected:
            return
        nearest = min(expected, key=lambda one: abs(found.value - one))
        departs = found.differs(nearest)
        shares.setdefault((end.role, quantity), []).append(departs)
        if departs:
            findings.append(Finding(end.label, quantity, found.value, nearest))

    for end in sorted(evidence.ends, key=lambda end: end.role == "output"):
        # features that grow because a matrix before starts too large are not the readout's doing
        astray = end.role == "output" and any(f.quantity == "std" for f in findings)
        rate = evidence.rate_expected(p, end)
        check(end, "std", evidence.folded("std", end, astray), evidence.std_expected(p, end))
        if rate is None and not end.inner:  # one without a rule is not nearer for it
            shares.setdefault((end.role, "rate"), []).append(True)
            unjudged.add(end.role)
        check(end, "rate", evidence.folded("speed", end, astray), () if rate is None else (rate + offset,))
    score = sum(float(np.mean(departs)) for departs in shares.values())
    return Named(p, offset, tuple(findings), frozenset(unjudged), score)


def beside(evidence: Evidence, one: Named) -> list[Finding]:
    """What departs whatever the parameterization's table says: weight decay, eps, betas, attention's scale, and updates
    that grow although every factor is right."""
    found: list[Finding] = []
    gradients = [evidence.exponent("gradient", end.label) for end in evidence.ends]
    most = max((one.means[-1] for one in gradients if one), default=0.0)

    def noise(end: End) -> bool:
        gradient = evidence.exponent("gradient", end.label)
        return gradient is None or gradient.means[-1] < NOISE * most

    for end in evidence.ends:
        if end.label != end.tensor:
            continue
        found += _decay(evidence, end, one.offset)
        kept = evidence.exponent("kept", end.label)
        gradient = evidence.exponent("gradient", end.label)
        eps = evidence.exponent("eps", end.label)
        if (
            kept
            and gradient
            and eps
            and not noise(end)
            and kept.means[-1] < 0.8
            and kept.means[-1] < kept.means[0] - 0.05
        ):
            found.append(Finding(end.label, "eps", eps.value, gradient.value))
        for beta in ("beta1", "beta2"):
            at = {round(values[beta, end.label], 9) for values in evidence.runs.values() if (beta, end.label) in values}
            if len(at) > 1:
                found.append(Finding(end.label, beta, math.nan, 0.0))
    found += _attention(evidence, one)
    if not one.findings and evidence.seeds > 1:
        found += [
            Finding(end.label, "update", update.value, expected)
            for end in evidence.ends
            if (update := evidence.exponent("effective", end.label)) is not None
            and (expected := evidence.update_expected(one.parameterization, end, one.offset)) is not None
            and update.value - expected > max(GROWS, 3 * update.error)
            and not noise(end)
        ]
    return found


def _decay(evidence: Evidence, end: End, offset: float) -> list[Finding]:
    """Decoupled decay removes lr * wd of a tensor per step, which has to stay where it is."""
    lr, decay = evidence.exponent("lr", end.label), evidence.exponent("weight_decay", end.label)
    if lr is None or decay is None or abs(lr.value + decay.value - offset) <= TOLERANCE:
        return []
    return [Finding(end.label, "decay", decay.value, offset - lr.value)]


def _attention(evidence: Evidence, one: Named) -> list[Finding]:
    """Queries and keys that learn by aligned updates (Adam, c = 1) have an inner product of the order of the head
    dimension d, so that the scale is 1/d; others, by chance, sqrt(d). At initialization, where queries and keys are of
    order one, the logits go like scale * sqrt(d)."""
    rule = one.parameterization.lr.get("adam", {}).get("hidden")
    if rule is None:
        return []
    expected = -0.5 if rule.exponent > HALF else 0.0
    off = [finding.label for finding in one.findings if finding.quantity == "std"]
    found = []
    keys = [key for values in evidence.runs.values() for key in values]
    for label in dict.fromkeys(label for quantity, label in keys if quantity == "heads"):
        logits = evidence.exponent("attention", label)
        heads = [evidence.runs[w, 0].get(("heads", label), math.nan) for w in evidence.widths]
        grows = heads[-1] < heads[0] if heads[0] < 0 else heads[-1] == heads[0]  # of a fixed number, or by dimension
        small = any(name.startswith(label.rpartition(".")[0]) for name in off)  # queries or keys are not of order one
        if grows and not small and logits is not None and logits.differs(expected, 0.25):
            found.append(Finding(label, "attention", logits.value, expected))
    return found
