"""What an adaptive sweep costs, in simulation: runs until both exponents are as certain as asked, against a full grid."""

import argparse
import math
from typing import Any

import numpy as np

from benchmarks.studies import JITTER, WORLDS, Truth, draw
from pipeline.analysis.runs import Runs
from pipeline.sweep import adaptive
from pipeline.sweep.adaptive import Aim, half_width, next_round

ABORTED = 0.3  # cost of a run that leaves the stable region and is aborted, of a full one


def simulate(truth: Truth, target: float, limit: int = 4000) -> dict[str, Any]:
    """One adaptive sweep on a simulated study."""
    rng = truth.rng
    cost = {w: (w / truth.widths[-1]) ** 2 for w in truth.widths}
    start = float(truth.optimum[0] + rng.uniform(-3, 3))
    aim = Aim(truth.widths, start, target, cost.__getitem__)
    rows: list[tuple[int, float, int, float, bool]] = []
    spent, rounds = 0.0, 0
    while len(rows) < limit:
        runs = Runs.of(*zip(*rows, strict=True)) if rows else Runs.of([], [], [], [])
        found = next_round(runs, aim)
        rounds += 1
        if not found.proposals:
            break
        for p in found.proposals:
            loss, left = truth.run(truth.widths.index(p.width), p.x, p.seed)
            rows.append((p.width, 2.0**p.x, p.seed, loss, left))
            spent += cost[p.width] * (ABORTED if left or not math.isfinite(loss) else 1.0)
    state = adaptive._State(Runs.of(*zip(*rows, strict=True)), aim)
    out: dict[str, Any] = {"cost": spent, "runs": len(rows), "rounds": rounds, "end": found.finding}
    for name, law, true in (("opt", state.optimum, truth.alpha), ("max", state.edge, truth.beta)):
        if law is None:
            out |= {f"{name}_hit": False, f"{name}_half": math.inf, f"{name}_err": math.nan}
            continue
        low, high = law.exponent.interval(0.95)
        out |= {
            f"{name}_hit": low <= true <= high,
            f"{name}_half": half_width(law.exponent),
            f"{name}_err": law.exponent.median - true,
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.10, 0.05])
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS))
    flags = parser.parse_args()
    for name in flags.worlds:
        for target in flags.targets:
            found = [
                simulate(draw(WORLDS[name], 4, JITTER["mild"], np.random.default_rng([7, i])), target)
                for i in range(flags.studies)
            ]
            both = [f["opt_half"] <= target and f["max_half"] <= target for f in found]
            print(
                name,
                target,
                f"cost {np.median([f['cost'] for f in found]):.1f} (p90 {np.quantile([f['cost'] for f in found], 0.9):.1f})",
                f"runs {np.median([f['runs'] for f in found]):.0f} rounds {np.median([f['rounds'] for f in found]):.0f}",
                f"reached {np.mean(both):.3f} coverage {np.mean([f['opt_hit'] for f in found]):.3f} {np.mean([f['max_hit'] for f in found]):.3f}",
                f"half {np.median([f['opt_half'] for f in found]):.3f} {np.median([f['max_half'] for f in found]):.3f}",
            )
            ends: dict[str, int] = {}
            for f, ok in zip(found, both, strict=True):
                if not ok:
                    ends[f["end"]] = ends.get(f["end"], 0) + 1
            print("   not reached:", list(ends.items())[:6])


if __name__ == "__main__":
    main()
