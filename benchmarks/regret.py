"""What following the recommendation costs, in simulation: ``python -m benchmarks.regret [--studies 100]``.

Four widths are trained, two seeds on the x2 grid; the learning rate for 4 and 16 times the widest is that of least
expected regret, the fitted optimum's median, or on a line through the grid's best, as people draw it. Its cost is the
height of the true valley there; whether a run diverges, and so costs more than any valley, is counted apart.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from scipy.special import ndtr

from benchmarks.estimators import machine
from benchmarks.studies import JITTER, WORLDS, Design, draw, make_runs
from pipeline.analysis.fit import published
from pipeline.analysis.fit.estimate import Estimate, estimate
from pipeline.analysis.study.axis import WIDTH
from pipeline.analysis.study.grid import grid_of
from pipeline.analysis.study.stability import LANGUAGE

GAPS = {"wide": (0.9, 3.0), "edge-limited": (0.0, 0.2)}
TRAINED, BEYOND = 4, {4: 4, 16: 5}
"""Places of the widths so many times wider than the widest that is trained."""
_LEVEL = 0.9


def _least_regret(known: Estimate, width: float) -> float:
    price = known.price(width, _LEVEL)
    return math.nan if price is None else math.log2(price.lr)


def _median(known: Estimate, width: float) -> float:
    """As it is printed: never above the edge."""
    optimum, edge = known.at("optimal", width), known.at("max_stable", width)
    if optimum is None:
        return math.nan
    return optimum.median if edge is None else min(optimum.median, edge.median)


def _line(known: Estimate, width: float) -> float:
    law = published.fit(grid_of(known.runs, LANGUAGE, by_trajectory=False)).laws["optimal"]
    return math.log2(law.lr_at(width))


RULES: dict[str, Callable[[Estimate, float], float]] = {
    "least regret": _least_regret,
    "median optimum": _median,
    "line through the grid's best": _line,
}


def study(world: str, gap: str, seed: int) -> list[list[list[float]]]:
    """One study: for every rule and distance the regret where training is stable, and the probability that a run
    diverges."""
    rng = np.random.default_rng([seed, list(GAPS).index(gap), 31])
    truth = draw(WORLDS[world], 6, JITTER["mild"], rng, GAPS[gap])
    runs = make_runs(truth, Design())
    known = estimate(runs.where(runs.width <= truth.widths[TRAINED - 1]), wander=WIDTH.wander)
    scatter = math.hypot(truth.seed_scatter, truth.world.run_scatter)
    rows = []
    for rule in RULES.values():
        row = []
        for place in BEYOND.values():
            x = rule(known, truth.widths[place])
            best = min(truth.optimum[place], truth.edge[place])
            regret = truth.height(place, x - truth.optimum[place]) - truth.height(place, best - truth.optimum[place])
            row.append([max(regret, 0.0), float(ndtr((x - truth.edge[place]) / scatter))])
        rows.append(row)
    return rows


def scores(world: str, gap: str, seeds: range, processes: int = 1) -> np.ndarray:
    """Means over studies, (rules, distances, (regret, divergence))."""
    with ProcessPoolExecutor(processes) as pool:
        found = list(pool.map(study, [world] * len(seeds), [gap] * len(seeds), seeds, chunksize=4))
    means: np.ndarray = np.nanmean(np.array(found), axis=0)
    return means


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regret", description=__doc__)
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    args = parser.parse_args()
    print(f"{args.studies} studies a cell, {machine()}\n")
    print("| world | gap | rule | regret at 4x, nats | diverge | at 16x | diverge |\n|---|---|---|---|---|---|---|")
    for world in WORLDS:
        for gap in GAPS:
            found = scores(world, gap, range(args.studies), args.processes)
            for name, at in zip(RULES, found, strict=True):
                cells = " | ".join(f"{regret:.4f} | {100 * share:.1f} %" for regret, share in at)
                print(f"| {world} | {gap} | {name} | {cells} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
