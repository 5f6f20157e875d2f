"""Do the intervals hold in every world? Simulated studies with known truth: ``python -m benchmarks.kinds``.

Per world of smooth valleys, and per kind of study that these lack (`benchmarks.studies.KINDS`, drawn from each of the
worlds in turn): how often the 95 % intervals of single widths' optima and of the exponent hold the truth, their median
half-widths, the pull (root-mean-square error over the posterior's standard deviation), and how often no valley, no
optimum at all or a difference in shape was said instead. Four widths, two seeds, x2 grid.
"""

import argparse
import math
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from benchmarks.estimators import machine
from benchmarks.studies import JITTER, KINDS, WORLDS, Design, Kind, draw_kind, make_runs
from pipeline.analysis.fit.estimate import estimate
from pipeline.analysis.fit.posterior import Mixture
from pipeline.analysis.study.axis import WIDTH

SMOOTH = Kind({}, JITTER["mild"])
NAMES = [*WORLDS, *KINDS]
_LEVEL = 0.95


@dataclass(frozen=True)
class Scored:
    """One posterior and its truth; octaves, or slopes."""

    error: float
    sd: float
    half: float
    inside: bool

    @staticmethod
    def of(known: Mixture, truth: float) -> "Scored":
        low, high = known.interval(_LEVEL)
        return Scored(known.median - truth, known.standard_deviation, (high - low) / 2, low <= truth <= high)


@dataclass(frozen=True)
class Study:
    """What was found of one study, by its valley."""

    valley: str
    widths: tuple[Scored, ...]
    exponent: Scored | None
    no_valley: bool
    shape_differs: float


def study(name: str, seed: int) -> Study:
    """One study of a world or a kind."""
    world = WORLDS.get(name, list(WORLDS.values())[seed % len(WORLDS)])
    rng = np.random.default_rng([seed, *map(ord, name)])
    truth = draw_kind(KINDS.get(name, SMOOTH), world, 4, rng)
    known = estimate(make_runs(truth, Design()), wander=WIDTH.wander)
    exponent = known.exponent("optimal")
    own = known.own_optimum
    reached = np.minimum(truth.optimum, truth.edge)
    places = [] if own is None else [(n, float(reached[truth.widths.index(int(n))])) for n in own.widths]
    # where the edge limits the optimum, its exponent is the edge's
    alpha = truth.beta if known.edge_limited else truth.alpha
    return Study(
        truth.valley.__name__.strip("_"),
        tuple(Scored.of(own.at(n), place) for n, place in places if own is not None),
        None if exponent is None else Scored.of(exponent, alpha),
        known.no_valley,
        0.0 if known.optima is None else known.optima.shape_differs,
    )


def cells(scored: list[Scored]) -> str:
    if not scored:
        return " | | "
    pull = math.sqrt(float(np.mean([(one.error / one.sd) ** 2 for one in scored])))
    half = float(np.median([one.half for one in scored]))
    return f"{np.mean([one.inside for one in scored]):.3f} | {half:.3f} | {pull:.2f}"


def row(name: str, found: list[Study]) -> str:
    widths = cells([one for each in found for one in each.widths])
    exponent = cells([each.exponent for each in found if each.exponent is not None])
    silent = np.mean([each.exponent is None for each in found])
    flat, differs = np.mean([[each.no_valley, each.shape_differs > 0.5] for each in found], axis=0)
    return f"| {name} | {widths} | {exponent} | {flat:.2f} | {silent:.2f} | {differs:.2f} |"


HEADER = (
    "| world or kind | width: inside 95 % | half-width | pull | exponent: inside 95 % | half-width | pull "
    "| no valley | no exponent | shape differs |"
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kinds", description=__doc__)
    parser.add_argument("--studies", type=int, default=200, help="of each")
    parser.add_argument("--first_seed", type=int, default=10_000)
    parser.add_argument("--names", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--by_valley", action="store_true", help="a row per family of valleys too")
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    started = time.monotonic()
    print(f"{args.studies} studies each, {machine()}\n\n{HEADER}\n|{'---|' * 10}", flush=True)
    seeds = range(args.first_seed, args.first_seed + args.studies)
    with ProcessPoolExecutor(args.processes) as pool:
        for name in args.names:
            found = list(pool.map(study, [name] * len(seeds), seeds, chunksize=4))
            print(row(name, found), flush=True)
            for valley in sorted({each.valley for each in found}) if args.by_valley else ():
                print(row(f"{name}: {valley}", [each for each in found if each.valley == valley]), flush=True)
    print(f"\n{time.monotonic() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
