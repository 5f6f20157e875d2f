"""How well could the max-stable exponent be known at all? ``python -m benchmarks.limits``.

The posterior mean given what no estimator is told, the scatter over seeds and the irregularity of widths, from the same
intervals that `local` reads off the runs: where the scatter is normal (world `note`), nothing has a smaller error.
"""

import argparse
import math

import numpy as np
from scipy.special import ndtr

from benchmarks.estimators import Cell, machine, paper_exponents, rms
from benchmarks.studies import JITTER, WORLDS, Truth, draw, make_runs
from pipeline.analysis.fit.estimate import estimate
from pipeline.analysis.study.axis import WIDTH
from pipeline.analysis.study.edges import Intervals

_OUTLIER, _SPAN = 0.02, 8.0  # as `edgelaw`: half-recovered runs hide a seed's edge now and then


def informed(truth: Truth, seen: Intervals, jitter: float) -> float:
    """Posterior mean of the edge's exponent; mu and alpha flat within far more than the runs leave open."""
    z = np.log2(np.array(truth.widths, dtype=np.float64))
    z -= z.mean()
    alpha = truth.beta + np.linspace(-0.8, 0.8, 161)
    mu = truth.edge.mean() + np.linspace(-1.5, 1.5, 101)[:, None]
    nodes = np.linspace(-4, 4, 41)
    weights = np.exp(-(nodes**2) / 2) / np.exp(-(nodes**2) / 2).sum()
    sd = math.hypot(truth.seed_scatter, truth.world.run_scatter)
    log = np.zeros((len(mu), len(alpha)))
    for place, width in enumerate(truth.widths):
        here, likelihood = seen.of(width), np.zeros_like(log)
        for node, weight in zip(nodes, weights, strict=True):
            edge = mu + alpha * z[place] + jitter * node
            seeds = np.full_like(log, weight)
            for low, high in zip(here.low, here.high, strict=True):
                inside = ndtr((high - edge) / sd) - ndtr((low - edge) / sd)
                seeds *= (1 - _OUTLIER) * inside + _OUTLIER * min(1.0, (high - low) / _SPAN)
            likelihood += seeds
        log += np.log(likelihood + 1e-300)
    posterior = np.exp(log - log.max()).sum(0)
    return float(posterior @ alpha / posterior.sum())


def errors(cell: Cell, seed: int) -> tuple[float, float, float]:
    """Of the informed posterior, of `local` and of `paper`, on one study."""
    truth = draw(WORLDS[cell.world], cell.design.n_widths, JITTER[cell.jitter], np.random.default_rng([seed, 13]))
    runs = make_runs(truth, cell.design)
    found = estimate(runs, wander=WIDTH.wander)
    ours = found.exponent("max_stable")
    guesses = informed(truth, found.seen, JITTER[cell.jitter]), math.nan if ours is None else ours.median
    return guesses[0] - truth.beta, guesses[1] - truth.beta, paper_exponents(runs)[1] - truth.beta


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=__doc__)
    parser.add_argument("--studies", type=int, default=300)
    args = parser.parse_args()
    print(f"{args.studies} studies per cell, world note, mild jitter; {machine()}\n")
    print("| widths | seeds | grid | informed | local | paper | informed / paper |\n|---|---|---|---|---|---|---|")
    for n_widths, n_seeds, grid in ((4, 1, "x2"), (3, 1, "x2"), (4, 1, "x4"), (4, 2, "x2"), (4, 4, "x2")):
        cell = Cell("note", n_widths, "mild", n_seeds, grid)
        best, ours, paper = (rms(column) for column in np.array([errors(cell, s) for s in range(args.studies)]).T)
        row = f"{best:.3f} | {ours:.3f} | {paper:.3f} | {best / paper:.2f}"
        print(f"| {n_widths} | {n_seeds} | {grid} | {row} |", flush=True)


if __name__ == "__main__":
    main()
