"""The learning rates of GPT-3's eight models against width, and their exponent beside the one that the paper prints
(paper, Fig. F.9): ``python analysis/gpt3.py [--out DIR]``.

The rates are those that Brown et al. (2020, Table 2.1) trained with, one a width, while batch and depth grow along. The
law is that of optima in any study (`pipeline.analysis.fit.law`): a power law that may wander, irregular at single
widths; a rate by itself is known to its last printed digit.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.analysis.fit.law import OptimumLaw
from pipeline.analysis.page import figures, words
from pipeline.analysis.published import Exponent, exponents, read
from pipeline.cli.arguments import RequestParser
from pipeline.cli.main import script
from pipeline.errors import RequestError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROUNDED = 0.05e-4
"""What a rate may be off by its last digit."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = RequestParser(prog="gpt3.py", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the figure (default: %(default)s)")
    try:
        args = parser.parse_args(argv)
        rows, (printed,) = read("gpt3"), exponents(item="Figure F.9")
        fitted = law(rows)
        paths = figures.save(figure(rows, fitted, printed), args.out, "gpt3")
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    low, high = fitted.exponent.interval()
    place = "inside" if low <= printed.exponent <= high else "outside"
    print(words.plain(f"{said(fitted)}; published {words.number(printed.exponent, 3)}, {place}; {printed.source}"))
    print("", *paths, sep="\n")
    return 0


def law(rows: Sequence[dict[str, str]]) -> OptimumLaw:
    """Of learning rates against widths, octaves."""
    width, lr = (np.array([float(row[name]) for row in rows]) for name in ("width", "lr"))
    variance = (ROUNDED / lr / np.log(2)) ** 2 / 3  # of an error that is uniform
    return OptimumLaw(tuple(width.tolist()), np.ones(1), np.log2(lr)[None], variance[None])


def said(fitted: OptimumLaw) -> str:
    """``exponent -0.75, 95 % interval -0.95 to -0.56``."""
    low, high = map(words.number, fitted.exponent.interval())
    return f"exponent {words.number(fitted.exponent.median)}, 95 % interval {low} to {high}"


def figure(rows: Sequence[dict[str, str]], fitted: OptimumLaw, printed: Exponent) -> "Figure":
    """Learning rates by model, the law with its 95 % band, and the printed slope through the law's middle."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    widths = np.geomspace(fitted.widths[0], fitted.widths[-1], 60)
    line = [fitted.line(float(width)) for width in widths]
    middle = 2.0 ** np.array([one.median for one in line])
    band = 2.0 ** np.array([one.interval() for one in line])
    centre = len(widths) // 2
    slope = middle[centre] * (widths / widths[centre]) ** printed.exponent
    with mpl.rc_context(figures.STYLE):
        drawn = Figure(figsize=(6.2, 4.2), layout="constrained")
        axes: Any = drawn.subplots()
        axes.fill_between(widths, band[:, 0], band[:, 1], color="#0072b2", alpha=0.15, lw=0)
        axes.plot(widths, middle, color="#0072b2", label=f"law: {said(fitted)}")
        label = f"published: {words.number(printed.exponent, 3)} ({printed.source})"
        axes.plot(widths, slope, ":", color="#d55e00", lw=1.8, label=label)
        for row in rows:
            at = (float(row["width"]), float(row["lr"]))
            axes.plot(*at, "o", color="#333333", ms=5, zorder=4)
            name = row["model"].removeprefix("GPT-3 ")
            apart = {"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8}
            axes.annotate(name, at, textcoords="offset points", xytext=(6, 5), fontsize=8, bbox=apart)
        axes.set(xscale="log", yscale="log", xlabel="width $n$ ($d_{model}$)", ylabel="learning rate")
        axes.set_xticks(fitted.widths, list(map(words.level, fitted.widths)))
        axes.minorticks_off()
        axes.margins(x=0.1)
        figures.label_lr_axis(axes, "y")
        axes.legend(loc="lower left", frameon=False)
    return drawn


if __name__ == "__main__":
    sys.exit(script(main))
