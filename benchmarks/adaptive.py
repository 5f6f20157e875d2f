"""What an adaptive sweep costs, in simulation: compute until both exponents are as certain as asked, against a full
grid.

    python -m benchmarks.adaptive [--studies 200]

Cost is counted in full runs of the widest width, one run costing as the square of its width. The full grid is x2, its
phase staggered over seeds and widths, without abort, with as many seeds as it takes for the median study to be as
certain.
"""

import argparse
import math
from typing import Any

import numpy as np

from benchmarks.studies import JITTER, WORLDS, Design, Truth, World, draw, make_runs
from pipeline.analysis.fit.estimate import estimate
from pipeline.analysis.study.axis import WIDTH
from pipeline.analysis.study.runs import Runs
from pipeline.sweep.adaptive.next_round import next_round
from pipeline.sweep.adaptive.state import Aim, half_width

ABORTED = 0.3  # cost of a run that leaves the stable region and is aborted, of a full one
SEEDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


def cost(truth: Truth, width: int) -> float:
    return float((width / truth.widths[-1]) ** 2)


def simulate(truth: Truth, target: float, limit: int = 4000) -> dict[str, Any]:
    """One adaptive sweep on a simulated study."""
    start = float(truth.optimum[0] + truth.rng.uniform(-3, 3))
    aim = Aim(truth.widths, start, target, lambda width: cost(truth, width))
    rows: list[tuple[int, float, int, float, bool]] = []
    spent, rounds, ending = 0.0, 0, ""
    while len(rows) < limit:
        found = next_round(_runs(rows), aim)
        rounds, ending = rounds + 1, found.finding
        if not found.proposals:
            break
        for p in found.proposals:
            loss, left = truth.run(truth.widths.index(p.width), p.x, p.seed)
            rows.append((p.width, 2.0**p.x, p.seed, loss, left))
            spent += cost(truth, p.width) * (ABORTED if left or not math.isfinite(loss) else 1.0)
    known = estimate(_runs(rows), wander=WIDTH.wander)
    out: dict[str, Any] = {"cost": spent, "runs": len(rows), "rounds": rounds, "ending": ending}
    for name, law, true in (
        ("opt", known.exponent("optimal"), truth.alpha),
        ("max", known.exponent("max_stable"), truth.beta),
    ):
        low, high = law.interval(0.95) if law is not None else (math.nan, math.nan)
        out |= {f"{name}_hit": low <= true <= high, f"{name}_half": (high - low) / 2 if law is not None else math.inf}
    return out


def _runs(rows: list[tuple[int, float, int, float, bool]]) -> Runs:
    return Runs.of(*zip(*rows, strict=True)) if rows else Runs.of([], [], [], [])


def grid_cost(world: World, target: float, studies: int) -> tuple[float, int]:
    """Cost and seeds of the full grid that makes the median study as certain as `target`; inf: more than 32 seeds."""
    for seeds in SEEDS:
        halves, costs = [], []
        for i in range(studies):
            truth = draw(world, 4, JITTER["mild"], np.random.default_rng([13, i]))
            runs = make_runs(truth, Design(4, seeds, 1.0, staggered=True))
            known = estimate(runs, wander=WIDTH.wander)
            laws = [known.exponent("optimal"), known.exponent("max_stable")]
            halves.append(max(half_width(law) if law is not None else math.inf for law in laws))
            costs.append(sum(cost(truth, int(width)) for width in runs.width))
        if np.median(halves) <= target:
            return float(np.median(costs)), seeds
    return math.inf, SEEDS[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.10, 0.05])
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    flags = parser.parse_args()
    print(
        "| world | +- | cost: median (90 %) | runs | rounds | reached | coverage opt / max | full grid: cost (seeds) "
        "| share |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in flags.worlds:
        for target in flags.targets:
            found = [
                simulate(draw(WORLDS[name], 4, JITTER["mild"], np.random.default_rng([7, i])), target)
                for i in range(flags.studies)
            ]
            reached = np.mean([max(f["opt_half"], f["max_half"]) <= target for f in found])
            spent = [f["cost"] for f in found]
            full, seeds = grid_cost(WORLDS[name], target, min(flags.studies, 40))
            print(
                f"| {name} | {target:g} | {np.median(spent):.1f} ({np.quantile(spent, 0.9):.1f}) | "
                f"{np.median([f['runs'] for f in found]):.0f} | {np.median([f['rounds'] for f in found]):.0f} | "
                f"{reached:.1%} | {np.mean([f['opt_hit'] for f in found]):.1%} / "
                f"{np.mean([f['max_hit'] for f in found]):.1%} | {full:.1f} ({seeds}) | {np.median(spent) / full:.1%} "
                "|",
                flush=True,
            )


if __name__ == "__main__":
    main()
