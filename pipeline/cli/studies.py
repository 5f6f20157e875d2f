"""The arguments of the verbs on studies: folders, what runs are compared by, the estimator."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from pipeline.analysis.fit.estimators import DEFAULT, ESTIMATORS
from pipeline.analysis.fit.study_fit import StudyFit, fit
from pipeline.analysis.study.measure import METRICS, VALUES, Measure
from pipeline.cli.arguments import RequestParser
from pipeline.errors import RequestError


@dataclass(frozen=True)
class StudyArgs:
    """What every verb on studies takes."""

    dirs: list[Path]
    measure: Measure
    estimator: str

    def fit(self) -> StudyFit:
        """Raises `RequestError`."""
        return fit(self.dirs, self.measure, self.estimator)


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
    kinds = "; ".join(
        f"{name}: {entry.help}{' (default)' if name == DEFAULT else ''}" for name, entry in ESTIMATORS.items()
    )
    add("--estimator", choices=tuple(ESTIMATORS), default=DEFAULT, help=kinds)
    return parser


def study_args(parsed: argparse.Namespace) -> StudyArgs:
    """Raises `RequestError` for values that no run records."""
    try:
        measure = Measure(parsed.metric, parsed.value)
    except ValueError as error:
        raise RequestError(str(error)) from None
    return StudyArgs(parsed.study, measure, parsed.estimator)
