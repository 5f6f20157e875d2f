"""Measured exponents as a table, published ones beside them: ``python analysis/measured.py runs/A runs/B ... [--metric
train_accuracy] [--estimator paper] --out FILE.csv``.

Every study is fitted by itself. A row per group and quantity: optimal, max_stable, and finite, the largest learning
rate whose loss stays finite, which alone ends the published runs under squared losses. With ``--inside`` instead a row
per group of weights: how effective and propagating updates go with width after the last step, and alignments after
step 1. `recipes` are 8 hex digits over the names of the runs, and so over all their settings.
"""

import csv
import hashlib
import io
import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import pipeline
from pipeline.analysis.fit.edgelaw import edge_law
from pipeline.analysis.fit.fitted import QUANTITIES
from pipeline.analysis.inside.lr_rules import ladders, recorded
from pipeline.analysis.page import words, words_inside
from pipeline.analysis.page.tables import write_text
from pipeline.analysis.page.words_published import published
from pipeline.analysis.study.edges import intervals
from pipeline.analysis.study.load import load_study
from pipeline.analysis.study.runs import Runs
from pipeline.analysis.study.stability import Cause, Labels
from pipeline.cli.main import script
from pipeline.cli.studies import study_args, study_parser
from pipeline.console import table
from pipeline.errors import RequestError
from pipeline.library import Asked

HEAD = ("study", "group", "quantity", "widths", "runs", "hours", "recipes", "exponent", "ci_low", "ci_high",
        "published", "inside", "source")  # fmt: skip
PUBLISHED_AS = {"optimal": "optimal", "max_stable": "max_stable", "finite": "max_stable"}

Law = tuple[int, float, float, float]
"""Widths, exponent, its 95 % interval."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = study_parser("measured", __doc__ or "")
    parser.prog = "measured.py"
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the table, as CSV")
    parser.add_argument("--inside", action="store_true", help="of updates, as coordinate checks recorded them")
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        parsed = parser.parse_args(given)
        args = study_args(parsed)
        if parsed.inside:
            rows = [row for source in parsed.study for row in _inside(Path(source))]
        else:
            rows = [row for source in args.sources for row in _rows(replace(args, sources=[source]))]
        command = ["python", "analysis/measured.py", *given]
        path = write_text(
            parsed.out, csv_text(HEAD, rows, command, "" if parsed.inside else f"by {args.measure.name}; ")
        )
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    shown = [HEAD[:-1], *(row[:-1] for row in rows)]
    print(*table([[words.plain(str(cell)) for cell in row] for row in shown]), "", path, sep="\n")
    return 0


def _rows(args: Asked) -> Iterator[tuple[Any, ...]]:
    """Of one study."""
    fit = args.fit()
    for group, known in zip(fit.groups, published(fit), strict=True):
        runs, fitted = group.grid.runs, group.fitted.laws
        laws: dict[str, Law] = {
            quantity: (law.n_widths, law.exponent, law.ci_low, law.ci_high)
            for quantity, law in ((quantity, fitted[quantity]) for quantity in QUANTITIES)
        }
        for quantity, (widths, exponent, low, high) in (laws | {"finite": finite(runs)}).items():
            made = (widths, *_made(fit.study.runs))
            measured = (fit.study.name, words.plain(words.group_title(group)), quantity, *made,
                        *map(_number, (exponent, low, high)))  # fmt: skip
            said = {(one.exponent, one.source) for one in known if one.quantity == PUBLISHED_AS[quantity]}
            for value, source in sorted(said):
                yield (
                    *measured,
                    f"{value:g}",
                    "" if math.isnan(low) else "yes" if low <= value <= high else "no",
                    source,
                )
            if not said:
                yield (*measured, "", "", "")


def _inside(folder: Path) -> Iterator[tuple[Any, ...]]:
    """Of one study's coordinate checks."""
    study = load_study([folder])
    for ladder in ladders(study, recorded(study)):
        asked = [(name, ladder.steps[-1], f"{name} update of ") for name in ("effective", "propagating")]
        asked += [
            ("alignment_effective", step, f"alignment after step {step} of ") for step in ladder.steps if step == 1
        ]
        for quantity, step, text in asked:
            for label in ladder.labels:
                if (e := ladder.group(quantity, label, step)) is not None:
                    ends = (e.exponent, e.exponent - e.half_width, e.exponent + e.half_width)
                    title = words.plain(words_inside.heading(ladder))
                    yield (
                        study.name,
                        title,
                        text + label,
                        e.n_widths,
                        *_made(study.runs),
                        *map(_number, ends),
                        "",
                        "",
                        "",
                    )


def _made(runs: pd.DataFrame) -> tuple[int, str, str]:
    """How many runs, the hours that they took, and a hash of what they are."""
    names = "\n".join(sorted(runs["run"]))
    return len(runs), f"{runs['seconds'].sum() / 3600:.3f}", hashlib.sha256(names.encode()).hexdigest()[:8]


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def finite(runs: Runs) -> Law:
    """Of the largest learning rate below which every run's loss stays finite."""
    cause = np.where(np.isfinite(runs.loss), Cause.STABLE, Cause.LOST)
    n = len(runs.widths)
    seen = intervals(runs, Labels(cause, np.full(n, -math.inf), np.full(n, math.nan), np.zeros(n, dtype=np.bool_)))
    law = edge_law(seen)
    if law is None:
        return len(seen.estimable_widths), math.nan, math.nan, math.nan
    low, median, high = law.exponent.quantiles([0.025, 0.5, 0.975])
    return len(seen.estimable_widths), median, low, high


def csv_text(head: Sequence[str], rows: Sequence[Sequence[Any]], command: Sequence[str], by: str = "") -> str:
    """A table of `results/`: in its first lines the command and the versions that made it, and that intervals hold
    95 %."""
    text = io.StringIO()
    print(f"# {shlex.join(command)}", file=text)
    versions = f"width-scaling-pipeline {pipeline.__version__}, torch {version('torch')}, numpy {np.__version__}"
    print(f"# {versions}; {by}intervals hold 95 %", file=text)
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()


if __name__ == "__main__":
    sys.exit(script(main))
