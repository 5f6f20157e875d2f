"""The runs that a cell needs: the scan of the narrowest width, brackets of edges, walls of valleys."""

import math
from collections.abc import Iterator

import numpy as np

from pipeline.analysis.fit.neighbourhood import WINDOW
from pipeline.sweep.adaptive.state import SAME, SCAN_STEP, Proposal, State, any_near

SCAN_REACH = 6.0  # octaves around the first guess
SCAN_LIMIT = 20.0  # octaves from the first guess after which the scan gives up
FINE, COARSE = 0.5, 1.0  # octaves, of the edge's bracket at the narrowest width and at the others
WALLS = (-1.1, 0.9)  # octaves from the optimum at which a cell samples the valley, on average
PROBE_REACH = 0.7  # octaves from the edge within which a run probes it
CLEAR_OF_EDGE = 0.45  # octaves that such a sample keeps from the edge
NEAR = 0.5  # octaves within which a run serves for another
LEAST_RUNS = 3  # that a width's valley takes
_GOLDEN = (math.sqrt(5) - 1) / 2
_PLASTIC = 0.7548776662  # for what is to be spread independently of what is spread by the golden ratio


def phase(place: int, seed: int) -> float:
    """In -1/2 .. 1/2, spread evenly over cells: staggered learning rates tell more than aligned ones."""
    return ((place + 1) * 0.37 + seed * _GOLDEN) % 1 - 0.5


def reach(place: int, seed: int) -> float:
    """Over `WALLS`, from a half to twice them, spread evenly over cells: from two places nobody can tell how walls
    bend, and with that where the bottom is, however many seeds are there."""
    return float(2.0 ** (2 * ((place * _PLASTIC**2 + seed * _PLASTIC) % 1) - 1))


def scan_runs(state: State) -> Iterator[Proposal]:
    """What the scan of the narrowest width still needs: coarse steps, and more of them past an end that asks for it."""
    aim = state.aim
    width, seed = aim.widths[0], aim.first_seed
    done = np.sort(state.cell(width, seed).x)
    planned = aim.start + np.arange(-SCAN_REACH, SCAN_REACH + SCAN_STEP / 2, SCAN_STEP)
    missing = [x for x in planned.tolist() if not any_near(done, x, SAME)]
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


def edge_runs(state: State, width: int, seed: int) -> Iterator[Proposal]:
    """What this cell still needs: the first seed's a bracket of its edge, the others' one run near it. A little above
    the edge such a run tells as much, and it costs less, since it is soon aborted."""
    own = state.cell(width, seed)
    place = state.aim.widths.index(width)
    if seed != state.aim.first_seed:
        limit = state.limit(width)
        if not any_near(own.x, limit, PROBE_REACH):
            yield Proposal(width, seed, limit + 0.1 + 0.6 * phase(place, seed), f"probe of the edge at {limit:.2f}")
        return
    low, high = state.bracket(width, seed)
    if math.isfinite(low) and math.isfinite(high):
        if high - low > (COARSE if place else FINE) + 0.01:
            shift = 0.2 * phase(place, seed) * (high - low)
            yield Proposal(width, seed, (low + high) / 2 + shift, f"edge between {low:.2f} and {high:.2f}")
        return
    guess = state.limit(width) + 0.6 * phase(place, seed)
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


def valley_runs(state: State, width: int, seed: int) -> Iterator[Proposal]:
    """What this cell still needs on the walls of the valley, and the first one at its bottom."""
    own = state.cell(width, seed)
    place = state.aim.widths.index(width)
    best = state.best(width)
    ceiling = state.limit(width) - CLEAR_OF_EDGE
    shift = 0.4 * phase(place, seed)
    left, right = (best + reach(place, seed) * wall + shift for wall in WALLS)
    targets = [(left, "left wall"), (min(right, ceiling), "right wall")]
    usable = np.isfinite(own.loss)
    wanted = [(x, why) for x, why in targets if not any_near(own.x[usable], x, NEAR)]
    inside = usable & (own.x > best + WINDOW[0]) & (own.x < min(best + WINDOW[1], ceiling + CLEAR_OF_EDGE))
    spared = place == len(state.aim.widths) - 1 and len(wanted) + np.sum(inside) >= LEAST_RUNS
    if seed == state.aim.first_seed and not spared and not any_near(own.x[usable], min(best, ceiling), NEAR):
        wanted.append((min(best, ceiling), "bottom"))
    for x, why in wanted:
        yield Proposal(width, seed, x, f"{why} of a valley at {best:.2f}")


def open_widths(state: State) -> Iterator[Proposal]:
    """The first seed of every width, narrowest first: a width waits until the one before it has a bracket."""
    seed = state.aim.first_seed
    for width in state.aim.widths:
        yield from edge_runs(state, width, seed)
        low, high = state.bracket(width, seed)
        if not (math.isfinite(low) and math.isfinite(high) and high - low <= 2 * SCAN_STEP):
            return
        yield from valley_runs(state, width, seed)
