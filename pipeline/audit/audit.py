"""An audit: builds at several widths and seeds, measured and named."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.audit import judge
from pipeline.audit.builds import Build, call
from pipeline.audit.judge import Evidence, Finding, Named
from pipeline.audit.layout import End, ends_of
from pipeline.audit.measure import Values, measure, with_roles
from pipeline.audit.optimizers import Response, responses
from pipeline.console import Progress
from pipeline.errors import RequestError, require
from pipeline.parameterization import rules

SEEDS, STEPS = 2, 4


@dataclass(frozen=True)
class Audit:
    """What the builds amount to."""

    evidence: Evidence
    optimizers: tuple[str, ...]
    """By the names of their classes."""
    ranked: tuple[Named, ...]
    """Every parameterization, the nearest first."""
    expected: Named | None
    """The one that was asked for."""
    frozen: tuple[str, ...] = ()
    """Parameters that are not trained."""

    @property
    def named(self) -> Named:
        """What the builds are held to: what was expected, or else what they are nearest to."""
        return self.expected or self.ranked[0]

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """Every departure from `named`."""
        return (*self.named.findings, *judge.beside(self.evidence, self.named))

    @property
    def fits(self) -> tuple[str, ...]:
        """The parameterizations that the builds cannot be told from, in the table's order; of one learning rate for
        all that goes with the width, those under the same one."""
        best = self.ranked[0]
        alike = [one for one in self.ranked if one.offset == best.offset and one.score <= best.score]
        return tuple(one.name for one in alike if not one.findings)

    @cached_property
    def unjudged(self) -> tuple[End, ...]:
        """Ends whose rate no entry of the table has a rule for, under their optimizer."""
        p = self.named.parameterization
        return tuple(e for e in self.evidence.ends if self.evidence.rate_expected(p, e) is None)

    @property
    def ok(self) -> bool:
        """Nothing departs; and where something was expected, every matrix could be held to it but those that sum over
        the width inside (`End.inner`), of which no rule is known."""
        return not self.findings and not (self.expected and any(not end.inner for end in self.unjudged))

    def roles(self) -> dict[str, list[str]]:
        """By role, the parameterizations that all of its tensors agree with, under the learning rate of `named`."""
        roles = dict.fromkeys(end.role for end in self.evidence.ends)
        found: dict[str, list[str]] = {role: [] for role in roles}
        labels = {end.label: end.role for end in self.evidence.ends}
        unknown = frozenset.intersection(*(one.unjudged for one in self.ranked))  # to all: by what is left, then
        for one in self.ranked:
            if one.offset == self.named.offset:
                off = {labels[finding.label] for finding in one.findings}
                for role in roles:
                    if role not in off | (one.unjudged - unknown):
                        found[role].append(one.name)
        order = list(rules.TABLE)
        return {role: sorted(names, key=order.index) for role, names in found.items()}


def audit(
    build: Build, widths: Sequence[int], *, expect: str | None = None, seeds: int = SEEDS, steps: int = STEPS
) -> Audit:
    """Audit ``build(width)``, which gives model and optimizer, then loss and batch where it wants its own.

    Builds each width once to see what its optimizer does, and once per seed to measure it over `steps` steps on one
    batch. `expect` is a name of `pipeline.parameterization.rules.TABLE`. Nothing of the caller's is changed, torch's
    random state included. Raises `RequestError` for what cannot be audited, in one line.
    """
    widths = sorted(set(widths))
    require(
        len(widths) > 1, f"one width ({', '.join(map(str, widths))}) shows no scaling: give at least two, better three"
    )
    require(widths[0] > 0, f"a width is positive, got {widths[0]}")
    require(seeds > 0 and steps > 0, "an audit takes at least one seed and one step")
    try:
        wanted = rules.get(expect) if expect else None
    except ValueError as error:
        raise RequestError(str(error)) from None
    import torch

    with torch.random.fork_rng(devices=[]):
        builds = [call(build, width, 0) for width in widths]
        ends = with_roles(builds, ends_of(builds))
        names = tuple(dict.fromkeys(type(one).__name__ for one in builds[0].optimizers))
        frozen = tuple(name for name, p in builds[0].model.named_parameters() if not p.requires_grad)
        runs: dict[tuple[int, int], Values] = {}
        seen: dict[str, Response] = {}
        progress = Progress(len(widths) * seeds, "build")
        outputs = 1
        for width, built in zip(widths, builds, strict=True):
            response = responses(built)
            _same_families(seen, response, width)
            seen = seen or response
            for seed in range(seeds):
                measured = measure(call(build, width, seed), ends, response, steps)
                runs[width, seed], outputs = measured.values, measured.outputs
                progress.at(len(runs), f"width {width}")
        progress.close()
    evidence = Evidence(tuple(widths), seeds, ends, seen, runs, outputs)
    ranked = tuple(judge.candidates(evidence))
    return Audit(evidence, names, ranked, judge.named(evidence, wanted) if wanted else None, frozen)


def _same_families(first: dict[str, Response], other: dict[str, Response], width: int) -> None:
    for name, response in first.items():
        if other[name].family != response.family:
            raise RequestError(
                f"{name} is updated as by {response.family} at the narrowest width and as by {other[name].family} at "
                f"{width}: let one optimizer have it at every width"
            )
