"""The two-layer linear model (paper, C.4): draws figures C.2 and C.3 and prints the exponents of the largest stable
learning rate beside the published ones: ``python analysis/linear_model.py [--widths 64,...,16384] [--out DIR]``."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import pipeline
from pipeline.analysis.inside.linear import UPDATES, LinearEdge, after_training, course, linear_edge
from pipeline.analysis.page import figures, figures_linear, words
from pipeline.analysis.page.tables import write_text
from pipeline.analysis.published import constants
from pipeline.cli.arguments import RequestParser
from pipeline.cli.main import script
from pipeline.console import table
from pipeline.errors import RequestError, require
from pipeline.parameterization.rules import TABLE

PARAMS = ("sp", "ntp", "mup")
RULED = [name for name, p in TABLE.items() if "sgd" in p.lr]
WIDEST = 2**22


def main(argv: Sequence[str] | None = None) -> int:
    parser = RequestParser(prog="linear_model.py", description=__doc__)
    add = parser.add_argument
    add("--widths", default="64,128,256,512,1024,2048,4096,8192,16384", help="default: %(default)s")
    add("--params", default=",".join(PARAMS), help=f"of {', '.join(RULED)} (default: %(default)s)")
    add("--seeds", type=int, default=16, metavar="N", help="initializations of every width (default: %(default)s)")
    add("--steps", type=int, default=1000, help="steps that are to stay finite (default: %(default)s)")
    add("--out", type=Path, default=Path("figures"), help="folder for the table and the figures (default: %(default)s)")
    try:
        args = parser.parse_args(argv)
        widths, params = _widths(args.widths), _params(args.params)
        for name in ("seeds", "steps"):
            require(getattr(args, name) >= 1, f"--{name} must be at least 1, got {getattr(args, name)}")
        edges = [linear_edge(p, widths, args.seeds, args.steps, update) for p in params for update in UPDATES]
        if any(np.isnan(edge.lr_WS).any() for edge in edges):
            raise RequestError(
                f"--steps {args.steps}: not every width diverges so soon at any learning rate; give more"
            )
        print(*table(_rows(edges)), "", sep="\n")
        asked = {"widths": args.widths, "params": args.params, "seeds": args.seeds, "steps": args.steps}
        given = [word for name, value in asked.items() if value != parser.get_default(name)
                 for word in (f"--{name}", str(value))]  # fmt: skip
        shown = widths[:: -(-len(widths) // 5)]
        curves = after_training(shown, min(args.seeds, 3), args.steps)
        paths = figures.save(figures_linear.after_training_figure(curves, edges), args.out, "linear_model_c2")
        etas = [float(eta) for name, eta in constants("linear model").items() if name.startswith("eta0_")]
        courses = {eta: course(shown, 0, eta, steps=20 if eta < 1.5 else 200) for eta in etas}
        paths += figures.save(figures_linear.course_figure(courses), args.out, "linear_model_c3")
        paths.append(write_text(args.out / "linear_model.csv", _csv(edges, given)))
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    print(*paths, sep="\n")
    return 0


def _widths(text: str) -> list[int]:
    """Raises `RequestError`."""
    parts = text.split(",")
    require(
        all(part.strip().isdecimal() and 1 < int(part) <= WIDEST for part in parts)
        and len({*map(int, parts)}) == len(parts) > 1,
        f"--widths takes different whole numbers from 2 to {WIDEST}, at least two, such as 64,256,1024; got {text!r}",
    )
    return sorted(map(int, parts))


def _params(text: str) -> list[str]:
    """Raises `RequestError`."""
    found = list(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in found:
        require(name in RULED, f"--params: no parameterization {name!r} of SGD: choose from {', '.join(RULED)}")
    return found


def _published(edge: LinearEdge) -> str:
    known = figures_linear.published(edge.param)
    return "" if known is None else f"{known:g}"


def _rows(edges: list[LinearEdge]) -> list[tuple[str, ...]]:
    head = ("", "update", "exponent", "95 % interval", "predicted", "published", "lr at the widest", "lr * K_0")
    rows = []
    for edge in edges:
        low, high = (words.number(edge.exponent + sign * edge.half_width, 3) for sign in (-1, 1))
        cells = (
            words.label(edge.param), edge.update, words.number(edge.exponent, 3),
            low if low == words.DASH else f"{low} to {high}", str(edge.predicted), _published(edge),
            words.lr(float(edge.lr_W[-1])), f"{edge.lr_times_kernel:.2f}",
        )  # fmt: skip
        rows.append(tuple(map(words.plain, cells)))
    return [head, *rows]


def _csv(edges: list[LinearEdge], given: list[str]) -> str:
    """A row per parameterization, order of the update and width; then one for the exponent, whose width is empty."""
    lines = [
        f"# {shlex.join(['python', 'analysis/linear_model.py', *given])}",
        f"# width-scaling-pipeline {pipeline.__version__}, numpy {np.__version__}",
        "# intervals hold 95 %: of a learning rate over seeds, of an exponent by its error",
        "param,update,quantity,width,value,ci_low,ci_high,n_seeds,predicted,published",
    ]
    for edge in edges:
        head = f"{edge.param},{edge.update}"
        seeds = edge.lr_WS.shape[1]
        for width, lrs, lr in zip(edge.widths, edge.lr_WS, edge.lr_W, strict=True):
            low, high = np.quantile(lrs, (0.025, 0.975))
            lines.append(f"{head},max_stable_lr,{width},{lr:.6g},{low:.6g},{high:.6g},{seeds},,")
        low, high = edge.exponent - edge.half_width, edge.exponent + edge.half_width
        values = f"{edge.exponent:.4f},{low:.4f},{high:.4f},{seeds},{edge.predicted},{_published(edge)}"
        lines.append(f"{head},max_stable_exponent,,{values}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(script(main))
