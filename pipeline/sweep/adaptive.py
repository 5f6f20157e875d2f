"""Which runs an adaptive sweep makes next: a pure function of the runs that are finished, so that it can be stopped,
continued and repeated.

Units: x = log2(lr), in octaves; z = log2(width). A *cell* is a width and a seed: in it, the stability edge is bracketed and
bisected, and the valley is sampled on both its walls, where the loss says more of the optimum than at the bottom.

1. The narrowest width is scanned with coarse steps over twelve octaves, further where an end turns out interesting.
2. The other widths, one after the other, start from what the narrower ones predict.
3. Seeds are added where they tighten the wider of the two intervals most per cost, until both are as narrow as asked.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.analysis.fit.collapse import Estimate, estimate
from pipeline.analysis.fit.fitted import Quantity
from pipeline.analysis.fit.posterior import Mixture
from pipeline.analysis.fit.powerlaw import OptimumLaw
from pipeline.analysis.fit.valley import WINDOW
from pipeline.analysis.study.runs import Runs
from pipeline.analysis.study.stability import Rule

SCAN_REACH, SCAN_STEP = 6.0, 2.0  # octaves around the first guess
SCAN_LIMIT = 20.0  # octaves from the first guess after which the scan gives up
FINE, COARSE = 0.5, 1.0  # octaves, of the edge's bracket at the narrowest width and at the others
WALLS = (-2.2, 1.6)  # octaves from the optimum at which a cell samples the valley
PROBE_REACH = 0.7  # octaves from the edge within which a run probes it
CLEAR_OF_EDGE = 0.45  # octaves that such a sample keeps from the edge
SAME = 0.05  # octaves within which two runs tell the same
NEAR = 0.5  # octaves within which a run serves for another
FIRST_SLOPE = -0.5  # exponent by which the second width starts from the first
LEAST_RUNS = 3  # that a width's valley takes
MOST_SEEDS = 64
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Aim:
    """What a sweep is to find out, and at what cost."""

    widths: tuple[int, ...]
    """Narrowest first, two at least."""
    start: float
    """First guess of the optimum at the narrowest width, octaves."""
    half_width: float
    """Of the 95 % intervals of both exponents."""
    cost: Callable[[int], float]
    """Of one run at a width; the unit does not matter."""
    first_seed: int = 0
    rule: Rule = Rule()


@dataclass(frozen=True)
class Proposal:
    """A run to make, and why."""

    width: int
    seed: int
    x: float
    why: str


@dataclass(frozen=True)
class Round:
    """Runs that may all be made at once; none, with the reason, when there is nothing left to do."""

    proposals: tuple[Proposal, ...]
    finding: str
    """What the sweep knows so far, or why it ends."""


def next_round(runs: Runs, aim: Aim) -> Round:
    """The next runs, given every run made so far. The same runs give the same answer."""
    state = _State(runs, aim)
    scan = state.new(_scan(state))
    if scan:
        return Round(scan, f"scanning width {aim.widths[0]}")
    if state.gave_up:
        return Round((), f"gave up: {state.gave_up}")
    opened = state.new(_open_widths(state))
    if opened:
        return Round(opened, f"bracketing width {opened[0].width}")
    return _replicate(state)


class _State:
    """What the finished runs say."""

    def __init__(self, runs: Runs, aim: Aim) -> None:
        self.runs, self.aim = runs, aim
        self.gave_up = ""

    @cached_property
    def known(self) -> Estimate:
        assert len(self.runs)
        return estimate(self.runs, self.aim.rule)

    def half_width(self, quantity: Quantity) -> float:
        """Of the 95 % interval of an exponent; inf: it cannot be told yet, or not from all widths."""
        posterior = self.known.exponent(quantity)
        law = self.known.optimal if quantity == "optimal" else self.known.max_stable
        if posterior is None or law is None or len(law.widths) < len(self.aim.widths):
            return math.inf
        return half_width(posterior)

    def best(self, width: int) -> float:
        """Where the optimum is thought to be: fitted, else the best of the grid, else from the next narrower width."""
        law = self.known.own_optimum
        if law is not None and (width in law.widths or len(law.widths) > 1):
            fitted = law.at(width).median
            if width not in self.runs.widths:
                return fitted
            low, high = self._span(width)
            return min(max(fitted, low - SCAN_STEP), high + SCAN_STEP)
        if width in self.runs.widths and math.isfinite(self.grid_best(width)):
            return self.grid_best(width)
        return self._from_narrower(width, self.best)

    def grid_best(self, width: int) -> float:
        """The best learning rate tried; nan: none is usable."""
        return float(self.known.labels.best_x[self.runs.widths.index(width)])

    def limit(self, width: int) -> float:
        """Where the edge is thought to be."""
        if self.known.max_stable is not None:
            return self.known.max_stable.at(width).median
        own = self.known.seen.of(width)
        if own.two_sided.any():
            return float(np.median((own.low + own.high)[own.two_sided] / 2))
        return self._from_narrower(width, self.limit)

    def _from_narrower(self, width: int, known: Callable[[int], float]) -> float:
        place = self.aim.widths.index(width)
        assert place > 0, "the narrowest width has been scanned"
        narrower = self.aim.widths[place - 1]
        return known(narrower) + FIRST_SLOPE * math.log2(width / narrower)

    def _span(self, width: int) -> tuple[float, float]:
        x = self.runs.x[self.runs.width == width]
        return float(x.min()), float(x.max())

    def cell(self, width: int, seed: int) -> Runs:
        return self.runs.where((self.runs.width == width) & (self.runs.seed == seed))

    def bracket(self, width: int, seed: int) -> tuple[float, float]:
        seen = self.known.seen
        own = seen.where((seen.width == width) & (seen.seed == seed))
        return (float(own.low[0]), float(own.high[0])) if len(own.low) else (-math.inf, math.inf)

    def new(self, proposals: Iterator[Proposal]) -> tuple[Proposal, ...]:
        """Those that are not as good as made already, or proposed twice."""
        kept: list[Proposal] = []
        for p in proposals:
            others = [q.x for q in kept if (q.width, q.seed) == (p.width, p.seed)]
            if not _any_near(np.array([*self.cell(p.width, p.seed).x, *others]), p.x, SAME):
                kept.append(p)
        return tuple(kept)

    def seeds(self, width: int) -> int:
        """Seeds of a width that have been begun."""
        return len(np.unique(self.runs.seed[self.runs.width == width]))


def _phase(place: int, seed: int) -> float:
    """In -1/2 .. 1/2, spread evenly over cells: staggered learning rates tell more than aligned ones."""
    return ((place + 1) * 0.37 + seed * _GOLDEN) % 1 - 0.5


# ---------------------------------------------------------------------------------------------------------------------
# 1. The scan


def _scan(state: _State) -> Iterator[Proposal]:
    aim = state.aim
    width, seed = aim.widths[0], aim.first_seed
    done = np.sort(state.cell(width, seed).x)
    planned = aim.start + np.arange(-SCAN_REACH, SCAN_REACH + SCAN_STEP / 2, SCAN_STEP)
    missing = [x for x in planned.tolist() if not _any_near(done, x, SAME)]
    if missing:
        for x in missing:
            yield Proposal(width, seed, x, "scan")
        return
    low, high = float(done[0]), float(done[-1])
    best = state.grid_best(width)
    _, top = state.bracket(width, seed)
    wanted = []
    if math.isnan(best) or best <= low + 0.01:
        wanted.append((low - SCAN_STEP, "the best learning rate so far is the smallest"))
    if math.isinf(top) and not math.isnan(best):
        wanted.append((high + SCAN_STEP, "nothing is unstable so far"))
    for x, why in wanted:
        if abs(x - aim.start) > SCAN_LIMIT:
            state.gave_up = f"{why}, {SCAN_LIMIT:.0f} octaves from the first guess"
        else:
            yield Proposal(width, seed, x, why)


def _any_near(x: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", target: float, reach: float) -> bool:
    return bool(len(x) and np.min(np.abs(x - target)) <= reach)


# ---------------------------------------------------------------------------------------------------------------------
# 2. One cell


def _edge_runs(state: _State, width: int, seed: int) -> Iterator[Proposal]:
    """What this cell still needs: the first seed's a bracket of its edge, the others' one run near it. A little above the edge such a run tells as much, and it costs less, since it is soon aborted."""
    own = state.cell(width, seed)
    place = state.aim.widths.index(width)
    if seed != state.aim.first_seed:
        limit = state.limit(width)
        if not _any_near(own.x, limit, PROBE_REACH):
            yield Proposal(width, seed, limit + 0.1 + 0.6 * _phase(place, seed), f"probe of the edge at {limit:.2f}")
        return
    low, high = state.bracket(width, seed)
    if math.isfinite(low) and math.isfinite(high):
        if high - low > (COARSE if place else FINE) + 0.01:
            shift = 0.2 * _phase(place, seed) * (high - low)
            yield Proposal(width, seed, (low + high) / 2 + shift, f"edge between {low:.2f} and {high:.2f}")
        return
    guess = state.limit(width) + 0.6 * _phase(place, seed)
    if not len(own) or (math.isinf(low) and math.isinf(high)):
        for x in (guess - 0.5, guess + 0.5):
            yield Proposal(width, seed, x, f"edge expected at {guess:.2f}")
    elif math.isinf(high):
        top = float(own.x.max())
        tried = int(np.sum(own.x > guess - 0.6))
        yield Proposal(width, seed, max(guess, top) + min(2.0 ** (tried - 1), 4.0) * 0.5, "stable so far")
    else:
        tried = int(np.sum(own.x < guess + 0.6))
        yield Proposal(width, seed, min(guess, high) - min(2.0 ** (tried - 1), 4.0) * 0.5, "unstable so far")


def _valley_runs(state: _State, width: int, seed: int) -> Iterator[Proposal]:
    """What this cell still needs on the walls of the valley, and the first one at its bottom."""
    own = state.cell(width, seed)
    place = state.aim.widths.index(width)
    best = state.best(width)
    ceiling = state.limit(width) - CLEAR_OF_EDGE
    shift = 0.4 * _phase(place, seed)
    targets = [(best + WALLS[0] + shift, "left wall"), (min(best + WALLS[1] + shift, ceiling), "right wall")]
    usable = np.isfinite(own.loss)
    wanted = [(x, why) for x, why in targets if not _any_near(own.x[usable], x, NEAR)]
    inside = usable & (own.x > best + WINDOW[0]) & (own.x < min(best + WINDOW[1], ceiling + CLEAR_OF_EDGE))
    spared = place == len(state.aim.widths) - 1 and len(wanted) + np.sum(inside) >= LEAST_RUNS
    if seed == state.aim.first_seed and not spared and not _any_near(own.x[usable], min(best, ceiling), NEAR):
        wanted.append((min(best, ceiling), "bottom"))
    for x, why in wanted:
        yield Proposal(width, seed, x, f"{why} of a valley at {best:.2f}")


def _open_widths(state: _State) -> Iterator[Proposal]:
    """The first seed of every width, narrowest first: a width waits until the one before it has a bracket."""
    seed = state.aim.first_seed
    for width in state.aim.widths:
        yield from _edge_runs(state, width, seed)
        low, high = state.bracket(width, seed)
        if not (math.isfinite(low) and math.isfinite(high) and high - low <= 2 * SCAN_STEP):
            return
        yield from _valley_runs(state, width, seed)


# ---------------------------------------------------------------------------------------------------------------------
# 3. Seeds


def _replicate(state: _State) -> Round:
    aim = state.aim
    quantities: tuple[Quantity, ...] = ("optimal", "max_stable")
    halves = {quantity: state.half_width(quantity) for quantity in quantities}
    known = ", ".join(f"{name.replace('_', '-')} exponent to +-{half:.3f}" for name, half in halves.items())
    wide = {name for name, half in halves.items() if half > aim.half_width}
    if not wide:
        return Round((), f"as asked: {known}")
    proposals = state.new(_unfinished(state, wide))
    if not proposals:
        proposals = state.new(_more_seeds(state, wide, max(halves[name] for name in wide)))
    if not proposals:
        return Round((), f"no further run would help: {known}")
    closest = limit_of(aim.widths)
    if closest > aim.half_width:
        return Round((), f"{known}; {len(aim.widths)} widths cannot tell it closer than +-{closest:.3f}: add a width")
    return Round(proposals, known)


def half_width(posterior: Mixture) -> float:
    """Half the length of the central 95 % interval."""
    low, high = posterior.interval(0.95)
    return (high - low) / 2


def limit_of(widths: tuple[int, ...]) -> float:
    """The half-width that stays even if every width's optimum were known exactly: single widths are irregular."""
    z = np.log2(np.array(widths, dtype=np.float64))
    return half_width(OptimumLaw(widths, FIRST_SLOPE * z, 1e-6 * np.eye(len(z))).exponent)


def _runs_of(state: _State, width: int, seed: int, wide: set[Quantity]) -> Iterator[Proposal]:
    if "max_stable" in wide:
        yield from _edge_runs(state, width, seed)
    if "optimal" in wide:
        yield from _valley_runs(state, width, seed)


def _unfinished(state: _State, wide: set[Quantity]) -> Iterator[Proposal]:
    for width in state.aim.widths:
        for number in range(1, state.seeds(width)):
            yield from _runs_of(state, width, state.aim.first_seed + number, wide)


def _more_seeds(state: _State, wide: set[Quantity], half: float) -> Iterator[Proposal]:
    """Seeds in proportion to |z - mean| / sqrt(cost): about as many more as the interval is too wide, at most twice."""
    aim = state.aim
    z = np.log2(np.array(aim.widths, dtype=np.float64))
    cost = np.array([aim.cost(width) for width in aim.widths])
    weight = np.abs(z - z.mean()) / np.sqrt(cost / cost.max() + 0.03)
    weight = np.maximum(weight / weight.max(), 0.05)
    have = np.array([state.seeds(width) for width in aim.widths])
    level = float(np.max(have / weight)) if have.max() > 1 else 1.0
    while True:
        level = level * min(max((half / aim.half_width) ** 2, 1.15), 1.6)
        want = np.minimum(np.maximum(np.ceil(weight * level - 1e-9), 1), MOST_SEEDS).astype(int)
        if np.any(want > have) or np.all(want == MOST_SEEDS) or level > 20 * MOST_SEEDS:
            break
    for width, old, new in zip(aim.widths, have.tolist(), want.tolist(), strict=True):
        for number in range(old, new):
            yield from _runs_of(state, width, aim.first_seed + number, wide)
