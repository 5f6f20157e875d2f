"""How right are the exponents? Simulated studies with known truth, both estimators: ``python -m
benchmarks.estimators``.

Per cell (world, widths, jitter, seeds, grid): root-mean-square error of `paper` on the same runs, of `paper` as
published, on a grid aligned over seeds and widths, of `local`, and the ratio of the last two, at equally many runs;
coverage of the 95 % intervals, median half-width, bias. Then the note's other acceptance figures: the optimum that the
edge limits, and the rule for clean exponents. Results go to benchmarks/results/.
"""

import argparse
import itertools
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import scipy

from benchmarks.studies import JITTER, WORLDS, Design, Truth, World, draw, make_runs
from pipeline.analysis.fit import published
from pipeline.analysis.fit.estimate import Estimate, estimate
from pipeline.analysis.fit.evidence import decided
from pipeline.analysis.fit.posterior import Mixture
from pipeline.analysis.study.axis import WIDTH
from pipeline.analysis.study.grid import grid_of
from pipeline.analysis.study.runs import Floats, Runs
from pipeline.analysis.study.stability import LANGUAGE

GRIDS = {"x2": (1.0, False), "x2 staggered": (1.0, True), "x4": (2.0, False), "x4 staggered": (2.0, True)}


@dataclass(frozen=True)
class Cell:
    world: str
    n_widths: int
    jitter: str
    n_seeds: int
    grid: str

    @property
    def design(self) -> Design:
        spacing, staggered = GRIDS[self.grid]
        return Design(4 if self.n_widths == 4 else 3, self.n_seeds, spacing, staggered)


def cells(worlds: Sequence[str]) -> Iterator[Cell]:
    """All of them, those of the note's main table first."""
    order = [("x2", 2), ("x2 staggered", 2), ("x4 staggered", 4), ("x4", 4), ("x2", 4), ("x2", 1), ("x2 staggered", 4),
             ("x2 staggered", 1), ("x4", 2), ("x4 staggered", 2), ("x4", 1), ("x4 staggered", 1)]  # fmt: skip
    for (grid, n_seeds), jitter, n_widths in itertools.product(order, JITTER, (4, 3)):
        for world in worlds:
            yield Cell(world, n_widths, jitter, n_seeds, grid)


def paper_exponents(runs: Runs) -> tuple[float, float]:
    """The published practice on arrays: optimal and max-stable exponent."""
    fitted = published.fit(grid_of(runs, LANGUAGE, by_trajectory=False))
    return fitted.laws["optimal"].exponent, fitted.laws["max_stable"].exponent


def _scores(posterior: Mixture | None, truth: float) -> tuple[float, float, float]:
    """Error of the median, whether the 95 % interval holds the truth, and its half-width."""
    if posterior is None:
        return math.nan, math.nan, math.nan
    low, median, high = posterior.quantiles([0.025, 0.5, 0.975])
    return median - truth, float(low <= truth <= high), (high - low) / 2


def study(cell: Cell, seed: int) -> list[float]:
    """One study: errors of paper (optimum, edge), the same on the aligned grid, then error, hit and half-width of ours
    (optimum, edge)."""
    rng = np.random.default_rng([seed, *map(ord, json.dumps(asdict(cell)))])
    truth = draw(WORLDS[cell.world], cell.design.n_widths, JITTER[cell.jitter], rng)
    runs = make_runs(truth, cell.design)
    aligned = make_runs(truth, replace(cell.design, staggered=False)) if cell.design.staggered else runs
    found = estimate(runs, wander=WIDTH.wander)
    return [
        *np.subtract(paper_exponents(runs), (truth.alpha, truth.beta)),
        *np.subtract(paper_exponents(aligned), (truth.alpha, truth.beta)),
        *_scores(found.exponent("optimal"), truth.alpha),
        *_scores(found.exponent("max_stable"), truth.beta),
    ]


def rms(values: Floats) -> float:
    return math.sqrt(float(np.nanmean(values**2)))


def summary(scores: Floats) -> dict[str, float]:
    """Of the rows of `study`."""
    row: dict[str, float] = {}
    for place, (name, first) in enumerate((("opt", 4), ("max", 7))):
        error, aligned = scores[:, first], rms(scores[:, 2 + place])
        row |= {
            f"{name}_paper": rms(scores[:, place]),
            f"{name}_aligned": aligned,
            f"{name}_rmse": rms(error),
            f"{name}_ratio": rms(error) / aligned,
            f"{name}_coverage": float(np.nanmean(scores[:, first + 1])),
            f"{name}_half": float(np.nanmedian(scores[:, first + 2])),
            f"{name}_bias": float(np.nanmean(error)),
            f"{name}_none": float(np.isnan(error).mean()),
        }
    return row


def run_cell(cell: Cell, seeds: range) -> dict[str, float]:
    return summary(np.array([study(cell, seed) for seed in seeds]))


def edge_limited(world: str, gap: tuple[float, float], seeds: range) -> tuple[float, float]:
    """Share of studies in which the edge is found to limit the optimum, and coverage of the reported exponent in those,
    where optimum and edge share their exponent and lie `gap` octaves apart."""
    seen = [_limited(WORLDS[world], gap, seed) for seed in seeds]
    hits = [hit for limited, hit in seen if limited]
    return sum(limited for limited, _ in seen) / len(seen), sum(hits) / max(len(hits), 1)


def _limited(world: World, gap: tuple[float, float], seed: int) -> tuple[bool, bool]:
    truth, found = simulated(world, seed, gap=gap)
    posterior = found.exponent("optimal")
    hit = posterior is not None and posterior.interval()[0] <= truth.beta <= posterior.interval()[1]
    return found.edge_limited, hit


def simulated(
    world: World, seed: int, gap: tuple[float, float] = (0.9, 3.0), alpha: float | None = None
) -> tuple[Truth, Estimate]:
    """A mild study of four widths and two seeds on the x2 grid, and its fit."""
    rng = np.random.default_rng([seed, 11])
    truth = draw(world, 4, JITTER["mild"], rng, gap, alpha)
    return truth, estimate(make_runs(truth, Design()), wander=WIDTH.wander)


def clean_rule(world: str, alpha: float, seeds: range) -> tuple[float, float]:
    """How often the clean exponent nearest to the optimum's is decided, and how often decided wrongly, if it is
    `alpha`."""
    right = min((-1.0, -0.5, 0.0), key=lambda value: abs(value - alpha))
    answers = []
    for seed in seeds:
        posterior = simulated(WORLDS[world], seed, alpha=alpha)[1].exponent("optimal")
        answers.append(None if posterior is None else decided(posterior))
    return sum(a is not None for a in answers) / len(answers), sum(a not in (None, right) for a in answers) / len(
        answers
    )


HEADER = (
    "| world | widths | jitter | seeds | grid | opt RMSE paper | aligned | ours | ratio | 95 % coverage | half-width | "
    "bias | max RMSE paper | aligned | ours | ratio | 95 % coverage | half-width | bias |"
)


def markdown(cell: Cell, row: dict[str, float]) -> str:
    parts = [cell.world, str(cell.n_widths), cell.jitter, str(cell.n_seeds), cell.grid]
    for name in ("opt", "max"):
        parts += [f"{row[f'{name}_{which}']:.3f}" for which in ("paper", "aligned", "rmse")]
        parts += [
            f"{row[f'{name}_ratio']:.2f}",
            f"{row[f'{name}_coverage']:.3f}",
            f"{row[f'{name}_half']:.3f}",
            f"{row[f'{name}_bias']:+.3f}",
        ]
    return f"| {' | '.join(parts)} |"


def machine() -> str:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}"
    return f"{os.cpu_count()} cores, {model}; {versions}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimators", description=__doc__)
    parser.add_argument("--studies", type=int, default=1000, help="per cell")
    parser.add_argument("--first_seed", type=int, default=10_000, help="the smaller ones served to tune the estimators")
    parser.add_argument("--worlds", nargs="+", choices=sorted(WORLDS), default=list(WORLDS))
    parser.add_argument("--cells", type=int, help="only the first so many")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--skip_rules", action="store_true", help="leave out figures 7 and 8")
    args = parser.parse_args()
    started = time.monotonic()
    wanted = list(cells(args.worlds))[: args.cells]
    seeds = range(args.first_seed, args.first_seed + args.studies)
    print(f"{args.studies} studies per cell, {machine()}\n\n{HEADER}\n|{'---|' * 19}", flush=True)
    with ProcessPoolExecutor(args.processes) as pool:
        for cell, row in zip(wanted, pool.map(run_cell, wanted, [seeds] * len(wanted)), strict=True):
            print(markdown(cell, row), flush=True)
        if not args.skip_rules:
            print("\n| world | what | value |\n|---|---|---|", flush=True)
            for line in _rules(args.worlds, seeds):
                print(line, flush=True)
    print(f"\n{time.monotonic() - started:.0f} s", flush=True)
    return 0


def _rules(worlds: Sequence[str], seeds: range) -> Iterator[str]:
    for world in worlds:
        for text, gap in (("<= 0.2", (0.0, 0.2)), (">= 1.4", (1.4, 3.0))):
            share, covered = edge_limited(world, gap, seeds)
            yield f"| {world} | edge found to limit the optimum, bottom {text} octaves below | {share:.3f} |"
            if gap[1] < 1:
                yield f"| {world} | coverage of the exponent after switching | {covered:.3f} |"
        for alpha in (-0.5, -0.3):
            share, wrong = clean_rule(world, alpha, seeds)
            yield f"| {world} | clean rule at {alpha:g}: decided, of these and all wrong | {share:.3f}, {wrong:.3f} |"


if __name__ == "__main__":
    sys.exit(main())
