"""What half the runs tell: of a grid of widths x learning rates (all), every other learning rate at every other width,
offsets alternating (staggered), or the same every other one at all widths (coarse, the plain way to halve a grid).

    python -m benchmarks.staggered simulated --studies 200     simulated studies of known truth (`benchmarks.studies`)
    python -m benchmarks.staggered real STUDY ...              study folders; the truth is what all their runs say

Per design: root-mean-square error of the exponents, median half-width of their 95 % intervals, share that hold the
truth, and how many studies have an exponent at all.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.estimators import machine
from benchmarks.studies import JITTER, WORLDS, Design, draw, make_runs
from pipeline.analysis.fit.estimate import estimate
from pipeline.analysis.fit.fitted import QUANTITIES
from pipeline.analysis.fit.study_fit import fit
from pipeline.analysis.study.axis import WIDTH
from pipeline.analysis.study.runs import Bools, Floats, Runs
from pipeline.errors import RequestError

DESIGNS = ("all", "staggered", "coarse")
LEAST = 4  # learning rates of a study whose halves are asked for

Rows = dict[tuple[str, str], list[tuple[float, float, float]]]
"""By design and quantity: error of the exponent's median, half-width, and whether the interval holds the truth; nan
where there is none."""


def half(runs: Runs, design: str, offset: int) -> Bools:
    """Which runs the design makes, of those of a grid."""
    if design == "all":
        return np.ones(len(runs), dtype=np.bool_)
    rank = np.searchsorted(np.unique(runs.x.round(6)), runs.x.round(6))
    place = np.searchsorted(runs.widths, runs.width) if design == "staggered" else np.zeros(len(runs), dtype=np.int64)
    chosen: Bools = (rank + place + offset) % 2 == 0
    return chosen


def posteriors(runs: Runs, wander: Any) -> dict[str, Floats | None]:
    """Low, median and high of the exponents; None: not estimable."""
    known = estimate(runs, wander=wander)
    found = {quantity: known.exponent(quantity) for quantity in QUANTITIES}
    return {q: None if p is None else np.array(p.quantiles([0.025, 0.5, 0.975])) for q, p in found.items()}


def score(runs: Runs, truth: dict[str, float], wander: Any, offset: int, rows: Rows) -> None:
    """Add what every design makes of a study."""
    for design in DESIGNS:
        found = posteriors(runs.where(half(runs, design, offset)), wander)
        for quantity, true in truth.items():
            known = found[quantity]
            if known is None:
                row = (math.nan, math.nan, math.nan)
            else:
                low, median, high = known
                row = (median - true, (high - low) / 2, float(low <= true <= high))
            rows.setdefault((design, quantity), []).append(row)


def simulated(world: str, jitter: str, n_seeds: int, seeds: range) -> Rows:
    """Four widths, learning rates an octave apart over ten octaves."""
    rows: Rows = {}
    for seed in seeds:
        rng = np.random.default_rng([seed, n_seeds, *map(ord, world + jitter)])
        truth = draw(WORLDS[world], 4, JITTER[jitter], rng)
        runs = make_runs(truth, Design(4, n_seeds))
        score(runs, {"optimal": truth.alpha, "max_stable": truth.beta}, WIDTH.wander, seed, rows)
    return rows


def real(folders: Sequence[Path]) -> tuple[Rows, int]:
    """Both halves of every family of three widths or more, and how many families there were."""
    rows: Rows = {}
    count = 0
    for folder in folders:
        try:
            groups = fit([folder]).groups
        except RequestError as error:
            print(f"{folder}: {error}", file=sys.stderr)
            continue
        for group in groups:
            runs, wander = group.grid.runs, group.grid.wander
            if len(runs.widths) < 3 or min(len(np.unique(runs.x[runs.width == n])) for n in runs.widths) < LEAST:
                continue
            truth = {q: float(known[1]) for q, known in posteriors(runs, wander).items() if known is not None}
            count += 1
            for offset in (0, 1):
                score(runs, truth, wander, offset, rows)
    return rows, count


def table(rows: Rows) -> Iterator[str]:
    yield "| exponent | runs | rms error | 95 % half-width | inside | studies with one |\n|---|---|---|---|---|---|"
    for quantity in QUANTITIES:
        for design in DESIGNS:
            values = np.array(rows[design, quantity])
            known = values[~np.isnan(values[:, 0])]
            rms = math.sqrt(float(np.mean(known[:, 0] ** 2)))
            yield (
                f"| {quantity} | {design} | {rms:.3f} | {np.median(known[:, 1]):.3f} | {np.mean(known[:, 2]):.3f} "
                f"| {len(known)}/{len(values)} |"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("simulated", "real"))
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--studies", type=int, default=200, help="simulated: per cell")
    parser.add_argument("--worlds", nargs="+", choices=sorted(WORLDS), default=list(WORLDS), help="simulated")
    args = parser.parse_args()
    print(machine())
    if args.verb == "real":
        rows, count = real(args.folders)
        print(f"\n{count} families of real runs, both halves of each\n", *table(rows), sep="\n", flush=True)
        return 0
    seeds = range(20_000, 20_000 + args.studies)
    for world in args.worlds:
        for jitter in JITTER:
            for n_seeds in (1, 2):
                title = f"\n{world}, {jitter} jitter, {n_seeds} seeds a point, {args.studies} studies\n"
                print(title, *table(simulated(world, jitter, n_seeds, seeds)), sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
