"""`pipeline fit`: optimum, stability edge and their width exponents of a study, on the terminal and as CSV and JSON."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.analysis.fit.exponent import COLLAPSE, ESTIMATORS, Estimator
from pipeline.analysis.fit.study_fit import StudyFit, fit
from pipeline.analysis.page import words
from pipeline.analysis.page.tables import write
from pipeline.analysis.study.measure import METRICS, VALUES, Measure
from pipeline.cli.arguments import RequestParser
from pipeline.console import table, wrapped
from pipeline.errors import RequestError


def summary(found: StudyFit) -> str:
    """The fit as plain text for a terminal."""
    study, left_out = found.study, words.left_out(found)
    lines = [f"{study.name}: {len(study.runs)} runs, by {found.measure.name}{left_out and f' ({left_out})'}"]
    for group in found.groups:
        lines += ["", words.group_title(group), *aligned(words.width_rows(group)), ""]
        exponents = [("optimal lr", group.optimal), ("max-stable lr", group.max_stable)]
        cells = [(name, words.exponent(e), words.interval(e), str(e.n_widths)) for name, e in exponents]
        lines += aligned([("", "exponent", "95 % interval", "widths"), *cells])
        lines += ["", *wrapped(words.answer(group), "  ")] if group.estimate is not None else []
        for note in words.notes(group):
            lines += wrapped(note, "  - ")
    return words.plain("\n".join(lines))


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines of text, in ASCII."""
    return table([[words.plain(cell) for cell in row] for row in rows])


@dataclass(frozen=True)
class StudyArgs:
    """What every verb on studies takes."""

    dirs: list[Path]
    measure: Measure
    estimator: Estimator


def study_parser(verb: str, description: str) -> RequestParser:
    """A parser with the arguments of `StudyArgs`."""
    parser = RequestParser(prog=f"pipeline {verb}", description=description, allow_abbrev=False)
    add = parser.add_argument
    add("study", nargs="+", type=Path, metavar="STUDY", help="study folder, such as runs/quick")
    add(
        "--metric", choices=METRICS, default="train", help="what to compare runs by (default: train, the training loss)"
    )
    add(
        "--value",
        choices=VALUES,
        default="tail",
        help="tail: mean over the last 5 %% of training (default); last: last record; best: smallest",
    )
    add(
        "--estimator",
        choices=ESTIMATORS,
        default=COLLAPSE,
        help="collapse: one valley shape over widths, interval-censored edges (default); paper: grid values and a line",
    )
    return parser


def study_args(parsed: argparse.Namespace) -> StudyArgs:
    """Raises `RequestError` for values that no run records."""
    try:
        measure = Measure(parsed.metric, parsed.value)
    except ValueError as error:
        raise RequestError(str(error)) from None
    return StudyArgs(parsed.study, measure, parsed.estimator)


def main(argv: Sequence[str]) -> int:
    """`pipeline fit STUDY... [--metric ...] [--value ...] [--estimator ...]`. Files go into the first study's folder."""
    args = study_args(
        study_parser("fit", "Optimal and max-stable learning rate per width, and their exponents.").parse_args(argv)
    )
    fitted = fit(args.dirs, args.measure, args.estimator)
    paths = write(fitted)
    print(summary(fitted))
    print(f"\nWritten to {paths[0].parent}: {', '.join(path.name for path in paths)}")
    return 0
