"""Seeds: where they tighten the wider of the two intervals most per cost."""

import math
from collections.abc import Iterator

import numpy as np

from pipeline.analysis.fit.fitted import Quantity
from pipeline.analysis.fit.law import OptimumLaw
from pipeline.sweep.adaptive.cells import edge_runs, valley_runs
from pipeline.sweep.adaptive.state import FIRST_SLOPE, Proposal, Round, State, half_width

MOST_SEEDS = 64


def replicate(state: State) -> Round:
    aim = state.aim
    if aim.regret:
        return _until_cheap(state)
    quantities: tuple[Quantity, ...] = ("optimal", "max_stable")
    halves = {quantity: state.half_width(quantity) for quantity in quantities}
    reached = {str(name): half for name, half in halves.items()}
    known = ", ".join(f"{name.replace('_', '-')} exponent to +-{half:.3f}" for name, half in halves.items())
    wide = {name for name, half in halves.items() if half > aim.half_width}
    if not wide:
        return Round((), f"as asked: {known}", reached)
    proposals = state.new(_unfinished(state, wide))
    if not proposals:
        proposals = state.new(_more_seeds(state, wide, max(halves[name] for name in wide)))
    if not proposals:
        return Round((), f"no further run would help: {known}", reached)
    closest = limit_of(aim.widths)
    if closest > aim.half_width:
        why = f"{len(aim.widths)} widths cannot tell it closer than +-{closest:.3f}: add a width"
        return Round((), f"{known}; {why}", reached)
    return Round(proposals, known, reached)


def _until_cheap(state: State) -> Round:
    """Seeds for the optimum until the recommended learning rate is as cheap as asked."""
    aim, regret = state.aim, state.regret()
    known = f"at width {aim.at_width} the recommended learning rate is expected to cost {regret:.2g}"
    if regret <= aim.regret:
        return Round((), f"as asked: {known}", {"regret": regret})
    wide: set[Quantity] = {"optimal"}
    proposals = state.new(_unfinished(state, wide))
    if not proposals:
        # regret goes like the square of a half-width
        half = aim.half_width * math.sqrt(regret / aim.regret) if math.isfinite(regret) else math.inf
        proposals = state.new(_more_seeds(state, wide, half))
    if not proposals:
        return Round((), f"no further run would help: {known}", {"regret": regret})
    return Round(proposals, known, {"regret": regret})


def limit_of(widths: tuple[int, ...]) -> float:
    """The half-width that stays even if every width's optimum were known exactly: single widths are irregular."""
    z = np.log2(np.array(widths, dtype=np.float64))
    return half_width(OptimumLaw.of_places(widths, FIRST_SLOPE * z, np.full(len(z), 1e-6)).exponent)


def _runs_of(state: State, width: int, seed: int, wide: set[Quantity]) -> Iterator[Proposal]:
    if "max_stable" in wide:
        yield from edge_runs(state, width, seed)
    if "optimal" in wide:
        yield from valley_runs(state, width, seed)


def _unfinished(state: State, wide: set[Quantity]) -> Iterator[Proposal]:
    for width in state.aim.widths:
        for number in range(1, state.seeds(width)):
            yield from _runs_of(state, width, state.aim.first_seed + number, wide)


def _more_seeds(state: State, wide: set[Quantity], half: float) -> Iterator[Proposal]:
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
