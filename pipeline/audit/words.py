"""An audit in words: what it amounts to, what departs, a table of tensors; and as plain data."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.audit.audit import Audit
from pipeline.audit.causes import cause
from pipeline.audit.judge import Exponent, Finding
from pipeline.audit.layout import End
from pipeline.console import plural, table, wrapped
from pipeline.parameterization.rules import TABLE

QUANTITIES = {
    "std": "initial std",
    "rate": "learning rate",
    "decay": "weight decay",
    "eps": "eps",
    "attention": "attention logits at the start",
    "beta1": "beta1",
    "beta2": "beta2",
    "update": "effective update",
}
HEADER = ("tensor", "role", "std", "rate", "decay", "eps", "update", "predicted")
LEGEND = (
    "Exponents of the width n, +- standard error where it is .02 or more. std, rate: with every multiplier of the "
    "forward pass, which trades off against both (abc-symmetry). update: |(W - W_0) x| after the last step. !: departs."
)
_MOST = 3


def text(audit: Audit) -> str:
    """For the terminal."""
    lines = [headline(audit), *wrapped(setting(audit), ""), ""]
    for sentence in departures(audit):
        lines += wrapped(sentence, "  - ")
    lines += ["", *table([HEADER, *rows(audit)], lead="  "), *wrapped(LEGEND, "  "), ""]
    lines += [line for role, said in roles(audit).items() for line in wrapped(said, f"  {role}: ")]
    return "\n".join(lines)


def headline(audit: Audit) -> str:
    """What it is, in a line."""
    named = audit.named
    name = named.name + _offset(named.offset)
    count = len({f.label for f in audit.findings})
    if audit.expected is not None:
        if audit.ok:
            return f"{name}, as expected"
        if not count:
            return f"{name}, as far as it can be judged"
        return f"not {name}: {count} of {plural(len(audit.evidence.ends), 'tensor')} depart"
    if not named.findings:
        others = [other for other in audit.fits if other != named.name]
        also = f" (and, at these widths, {', '.join(others)})" if others else ""
        return name + also + (f", but for {plural(len(_sentences(audit)), 'departure')}" if audit.findings else "")
    return f"nearest to {name}: {count} of {plural(len(audit.evidence.ends), 'tensor')} depart"


def _offset(offset: float) -> str:
    return f", under one learning rate for all that goes like n^{offset:g}" if offset else ""


def setting(audit: Audit) -> str:
    evidence = audit.evidence
    families = {name: evidence.responses[name].family for name in evidence.responses}
    frozen = f"; {plural(len(audit.frozen), 'tensor')} not trained" if audit.frozen else ""
    return (
        f"{' and '.join(audit.optimizers)} (updates like {', '.join(dict.fromkeys(families.values()))}); widths "
        f"{', '.join(map(str, evidence.widths))}, {plural(evidence.seeds, 'seed')}{frozen}"
    )


def roles(audit: Audit) -> dict[str, str]:
    """The parameterizations that all tensors of a role agree with."""
    alone = {end.role for end in audit.unjudged}
    every = list(TABLE)
    return {
        role: ("all" if found == every else ", ".join(found) or "none")
        + (" (by what could be judged)" if role in alone else "")
        for role, found in audit.roles().items()
    }


# ---------------------------------------------------------------------------------------------------------------------
# Departures


def departures(audit: Audit) -> list[str]:
    """A sentence each, tensors that depart alike together; and what could not be judged."""
    found = _sentences(audit) or ["nothing departs"]
    if audit.unjudged:
        p = audit.named.name
        families = ", ".join(dict.fromkeys(audit.evidence.family(end) for end in audit.unjudged))
        found.append(
            f"not judged: the learning rate of {names(audit.unjudged)}; {p} has no rule for it under {families}"
        )
    return found


def _sentences(audit: Audit) -> list[str]:
    alike: dict[tuple[str, str, int, int], list[Finding]] = {}
    for finding in audit.findings:
        of = cause(audit.evidence, audit.named, finding)
        size = finding.found if not math.isnan(finding.found) else 0.0
        alike.setdefault((finding.quantity, of, round(size * 4), round(finding.expected * 2)), []).append(finding)
    return [_sentence(quantity, of, members) for (quantity, of, *_), members in alike.items()]


def _sentence(quantity: str, of: str, members: Sequence[Finding]) -> str:
    why = f": {of}" if of else ""
    if quantity.startswith("beta"):
        return f"{_few([f.label for f in members])}{why}"
    found, expected = (float(np.mean([getattr(f, key) for f in members])) for key in ("found", "expected"))
    goes = f"{QUANTITIES[quantity]} goes like n^{_signed(found)}, expected n^{_signed(expected)}"
    return f"{_few([f.label for f in members])}: {goes}{why}"


def names(ends: Sequence[End]) -> str:
    return _few([end.label for end in ends])


def _few(labels: Sequence[str]) -> str:
    shown = list(dict.fromkeys(_pattern(label) for label in labels))
    rest = f" and {len(shown) - _MOST} more" if len(shown) > _MOST else ""
    return ", ".join(shown[:_MOST]) + rest


def _pattern(label: str) -> str:
    """Of all layers of a kind."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", label)


def _signed(value: float) -> str:
    return f"{value + 0.0:.2f}" if abs(value) >= 0.005 else "0"


# ---------------------------------------------------------------------------------------------------------------------
# The table


def rows(audit: Audit, *, every: bool = False) -> list[list[str]]:
    """Cells of `HEADER`; tensors of several layers in one row, where they do alike, unless `every`."""
    off = {(f.label, f.quantity) for f in audit.findings}
    alike: dict[tuple[str, str, frozenset[str]], list[End]] = {}
    for end in audit.evidence.ends:
        marks = frozenset(quantity for quantity in QUANTITIES if (end.label, quantity) in off)
        alike.setdefault((end.label if every else _pattern(end.label), _role(end), marks), []).append(end)
    return [_row(audit, name, role, marks, ends) for (name, role, marks), ends in alike.items()]


def _row(audit: Audit, name: str, role: str, marks: frozenset[str], ends: Sequence[End]) -> list[str]:
    evidence, named = audit.evidence, audit.named

    def cell(quantity: str, *departures: str) -> str:
        found = [one for end in ends if (one := evidence.exponent(quantity, end.label)) is not None]
        return _cell(found) + (" !" if marks.intersection(departures) else "")

    predicted = evidence.update_expected(named.parameterization, ends[0], named.offset)
    count = f" ({len(ends)})" if len(ends) > 1 else ""
    return [
        name + count,
        role,
        cell("std", "std"),
        cell("speed", "rate"),
        cell("weight_decay", "decay"),
        cell("eps", "eps", "beta1", "beta2"),
        cell("effective", "update"),
        "-" if predicted is None else _signed(predicted),
    ]


def _role(end: End) -> str:
    return f"{end.role}, fixed outputs" if end.inner else end.role


def _cell(found: Sequence[Exponent]) -> str:
    if not found:
        return "-"
    error = float(np.mean([one.error for one in found]))
    value = _signed(float(np.mean([one.value for one in found])))
    return value if math.isnan(error) or error < 0.02 else f"{value} +- {error:.2f}"


# ---------------------------------------------------------------------------------------------------------------------


def data(audit: Audit) -> dict[str, Any]:
    """For ``--json``; errors that are not known are nan."""
    evidence, named = audit.evidence, audit.named
    tensors = []
    for end in evidence.ends:
        expected = evidence.std_expected(named.parameterization, end)
        measured = {
            key: {"exponent": one.value, "standard_error": one.error, "values": one.means}
            for key in _MEASURED
            if (one := evidence.exponent(key, end.label)) is not None
        }
        rate = evidence.rate_expected(named.parameterization, end)
        tensors.append(
            {
                "tensor": end.tensor,
                "end": end.label,
                "role": end.role,
                "fixed_outputs": end.inner,
                "tied": end.tied,
                "optimizer": evidence.family(end),
                "expected_std": list(expected),
                "expected_rate": None if rate is None else rate + named.offset,
                "expected_update": evidence.update_expected(named.parameterization, end, named.offset),
                "measured": measured,
            }
        )
    logits = evidence.exponent("logits", "")
    return {
        "parameterization": named.name,
        "lr_exponent": named.offset,
        "expected": audit.expected.name if audit.expected else None,
        "ok": audit.ok,
        "fits": list(audit.fits),
        "nearest": audit.ranked[0].name,
        "widths": list(evidence.widths),
        "seeds": evidence.seeds,
        "optimizers": list(audit.optimizers),
        "roles": audit.roles(),
        "departures": [
            {
                "tensor": f.label,
                "quantity": f.quantity,
                "found": f.found,
                "expected": f.expected,
                "cause": cause(evidence, named, f),
            }
            for f in audit.findings
        ],
        "not_judged": [end.label for end in audit.unjudged],
        "logits_exponent": None if logits is None else logits.value,
        "tensors": tensors,
    }


_MEASURED = (
    "init", "multiplier", "std", "lr", "rate", "speed", "weight_decay", "eps", "input", "output", "effective",
    "propagating", "gradient", "kept",
)  # fmt: skip
