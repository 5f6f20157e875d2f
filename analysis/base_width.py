"""At which width does the exponent settle, and which base width is enough? ``python -m analysis.base_width runs/STUDY
[--metric val] --out DIR``.

Every width's optimum from its own runs alone: the vertex of the mean loss over seeds, as `pipeline predict --score`
takes it. Then the local exponent between every width and the next one at least four times as wide; and what the
learning rate best at a width costs at the widest one, carried over unchanged. 95 % intervals: of exponents from both
optima's own errors, of costs from seeds drawn anew at both widths. Writes NAME.csv and the figure NAME.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.measured import csv_text
from pipeline.analysis.fit.measured import Measured, optimum, regret
from pipeline.analysis.fit.study_fit import GroupFit
from pipeline.analysis.page import figures, words
from pipeline.analysis.page.tables import make_folder, write_text
from pipeline.analysis.study.runs import Runs
from pipeline.cli.main import script
from pipeline.cli.studies import study_args, study_parser
from pipeline.console import table
from pipeline.errors import RequestError, require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAD = ("group", "quantity", "width", "other_width", "seeds", "value", "ci_low", "ci_high")
APART = 4
"""Least factor between the widths of a local exponent: over 2, errors of .1 octave are +- .28 of exponent."""
DRAWS = 400
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


@dataclass(frozen=True)
class Row:
    """Of a family of curves: ``optimal_lr`` of a width, ``exponent`` between two widths, or ``regret`` at the other
    width of what is best at the first, in the unit of the loss. `high` inf: at least that, since no learning rate so
    far off was tried there."""

    group: str
    quantity: str
    width: int
    other: int | None
    seeds: int
    value: float
    low: float
    high: float


def main(argv: Sequence[str] | None = None) -> int:
    parser = study_parser("base_width", __doc__ or "")
    parser.prog = "base_width.py"
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the results go")
    parser.add_argument("--name", default="base_width", help="what they are called (default: %(default)s)")
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        parsed = parser.parse_args(given)
        args = study_args(parsed)
        make_folder(parsed.out)
        found = [row for group in args.fit().groups for row in of_group(group)]
        require(bool(found), f"{parsed.study[0]}: no width there tells its optimum by itself")
        cells = [_cells(row) for row in found]
        text = csv_text(HEAD, cells, ["python", "-m", "analysis.base_width", *given], f"by {args.measure.name}; ")
        paths = [
            write_text(parsed.out / f"{parsed.name}.csv", text),
            *figures.save(drawn(found), parsed.out, parsed.name),
        ]
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    print(*table([HEAD, *cells]), "", *paths, sep="\n")
    return 0


def of_group(group: GroupFit) -> Iterator[Row]:
    """Of the widths that tell their optimum."""
    name, every = words.plain(words.group_title(group)), group.grid.runs
    of_width = {int(width): every.where(every.width == width) for width in every.widths}
    told = {width: known for width, runs in of_width.items() if isinstance(known := optimum(runs), Measured)}
    seeds = {width: len(np.unique(of_width[width].seed)) for width in told}
    for width, known in told.items():
        ends = (2.0 ** (known.x + side * 1.96 * known.error) for side in (-1, 1))
        yield Row(name, "optimal_lr", width, None, seeds[width], 2.0**known.x, *ends)
    for width, known in told.items():
        if (other := next((w for w in told if w >= APART * width), None)) is not None:
            octaves = math.log2(other / width)
            slope = (told[other].x - known.x) / octaves
            half = 1.96 * math.hypot(known.error, told[other].error) / octaves
            yield Row(
                name, "exponent", width, other, min(seeds[width], seeds[other]), slope, slope - half, slope + half
            )
    if told:
        widest = max(told)
        for width in told:
            cost = regret(of_width[widest], told[width].x)
            drawn_anew = _regrets(of_width[width], of_width[widest], same=width == widest)
            if cost is not None:
                # outside the learning rates tried there: at least the nearest one's
                low, high = (
                    np.quantile(drawn_anew, [0.025, 0.975]) if drawn_anew and not cost.beyond else (cost.loss, math.inf)
                )
                fewest = min(seeds[width], seeds[widest])
                yield Row(name, "regret", width, widest, fewest, cost.loss, float(low), float(high))


def _regrets(base: Runs, target: Runs, same: bool) -> list[float]:
    """What the optimum of `base` costs at `target`, of seeds drawn anew with replacement; draws that do not tell an
    optimum, or its price, are left out."""
    rng, found = np.random.default_rng(0), []
    for _ in range(DRAWS):
        there = _drawn(target, rng)
        known = optimum(there if same else _drawn(base, rng))
        cost = regret(there, known.x) if isinstance(known, Measured) else None
        if cost is not None and not cost.beyond:
            found.append(cost.loss)
    return found


def _drawn(runs: Runs, rng: np.random.Generator) -> Runs:
    """As many seeds, drawn with replacement and counted anew."""
    seeds = np.unique(runs.seed)
    places = [np.flatnonzero(runs.seed == seed) for seed in rng.choice(seeds, len(seeds))]
    found = runs.where(np.concatenate(places))
    numbers = np.repeat(np.arange(len(places)), [len(one) for one in places])
    return Runs.of(found.width, found.lr, numbers, found.loss, found.left, found.accuracy)


def _cells(row: Row) -> tuple[Any, ...]:
    other = "" if row.other is None else str(row.other)
    numbers = (f"{value:.4g}" for value in (row.value, row.low, row.high))
    return row.group, row.quantity, str(row.width), other, str(row.seeds), *numbers


def drawn(rows: Sequence[Row]) -> "Figure":
    """Optima against width, local exponents, and regrets at the widest width: a line per group, a colour per
    parameterization."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys(row.group for row in rows))
    params = list(dict.fromkeys(map(_param, groups)))
    with mpl.rc_context(figures.STYLE):
        figure = Figure(figsize=(10.5, 3.3), layout="constrained")
        panels = dict(zip(("optimal_lr", "exponent", "regret"), figure.subplots(1, 3), strict=True))
        for number, group in enumerate(groups):
            place = params.index(_param(group))
            for quantity, axes in panels.items():
                own = [row for row in rows if row.group == group and row.quantity == quantity]
                # an exponent belongs in the middle of its two widths
                x = [
                    math.sqrt(row.width * row.other) if quantity == "exponent" and row.other else row.width
                    for row in own
                ]
                x = [value * 1.02 ** (number - (len(groups) - 1) / 2) for value in x]
                value = [row.value for row in own]
                bars = [(max(row.value - row.low, 0), max(row.high - row.value, 0)) for row in own]
                spread = [[low for low, _ in bars], [high if math.isfinite(high) else 0 for _, high in bars]]
                axes.errorbar(x, value, spread, color=COLOURS[place % len(COLOURS)], marker="osD^"[place % 4], ms=3.5,
                              lw=1, elinewidth=0.8, capsize=1.5)  # fmt: skip
        for place, param in enumerate(params):
            panels["optimal_lr"].plot(
                [], [], color=COLOURS[place % len(COLOURS)], marker="osD^"[place % 4], label=param
            )
        widths = sorted({row.width for row in rows})
        for axes in panels.values():
            axes.set_xscale("log")
            axes.set_xticks(widths, list(map(words.level, widths)))
            axes.minorticks_off()
        panels["optimal_lr"].set(yscale="log", xlabel="width $n$", ylabel="optimal learning rate")
        panels["exponent"].set(
            xlabel="width, between the two", ylabel=f"local exponent over a factor of {APART} or more"
        )
        panels["regret"].set_yscale("symlog", linthresh=1e-3)
        panels["regret"].set(ylim=(0, None), xlabel="base width", ylabel=f"regret at width {max(widths)}")
        for slope in (0.0, -0.5, -1.0):
            panels["exponent"].axhline(slope, color="#333333", lw=1, ls=(0, (4, 2)), zorder=0)
        panels["optimal_lr"].legend(frameon=False)
    return figure


def _param(group: str) -> str:
    """What the title of a group begins with."""
    return group.split(" / ")[0]


if __name__ == "__main__":
    sys.exit(script(main))
