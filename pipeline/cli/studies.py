"""The arguments of the verbs on studies: folders or tables, what runs are compared by, the estimator."""

import argparse
import sys
from pathlib import Path

from pipeline.analysis.fit.estimators import DEFAULT, ESTIMATORS
from pipeline.analysis.fit.study_fit import StudyFit
from pipeline.analysis.fit.surface import SurfaceFit
from pipeline.analysis.study.axis import AXES
from pipeline.analysis.study.measure import METRICS, VALUES
from pipeline.analysis.study.studies import AnyStudy
from pipeline.analysis.study.tables.columns import NAMES, parse_columns
from pipeline.analysis.study.tables.read import READERS
from pipeline.cli.arguments import RequestParser, user_path
from pipeline.console import plural
from pipeline.errors import RequestError
from pipeline.library import Asked, asked
from pipeline.processes import cores


def study_parser(verb: str, description: str) -> RequestParser:
    """A parser with what `study_args` takes."""
    parser = RequestParser(prog=f"pipeline {verb}", description=description, allow_abbrev=False)
    add = parser.add_argument
    add(
        "study",
        nargs="+",
        metavar="STUDY",
        type=user_path,
        help=f"study folder, such as runs/quick; or tables of other people's runs: {', '.join(READERS)} files, a W&B "
        "folder, wandb:entity/project?state=finished&tag=x",
    )
    add("--metric", choices=METRICS, help="what to compare runs by (default: train, the training loss)")
    add(
        "--value",
        choices=VALUES,
        help="tail: mean over the last 5 %% of training (default); last: last record; best: smallest",
    )
    kinds = "; ".join(
        f"{name}: {entry.help}{' (default)' if name == DEFAULT else ''}" for name, entry in ESTIMATORS.items()
    )
    add("--estimator", choices=tuple(ESTIMATORS), default=DEFAULT, help=kinds)
    add(
        "--axis",
        metavar="NAME[,NAME]",
        help=f"along which runs differ: {', '.join(AXES)}, or a setting of runs such as warmup_steps, or a column of a "
        f"table; or two of them (default: {next(iter(AXES))})",
    )
    tables = parser.add_argument_group("tables of other people's runs")
    tables.add_argument(
        "--columns",
        action="append",
        metavar="NAME=COLUMN,...",
        help="which column is what, such as width=d_model,lr=peak_lr,loss=val/loss; names: those of --axis, level, "
        + ", ".join(NAMES),
    )
    tables.add_argument(
        "--group",
        metavar="COLUMN,...",
        help="columns whose values keep experiments apart (default: param, optimizer and loss_kind, if there)",
    )
    return parser


def add_out(parser: RequestParser) -> None:
    """The flag of verbs that write."""
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where files go (default: the study; beside a table, NAME-fit)"
    )


def add_published(parser: RequestParser) -> None:
    """The flag of scripts that show published exponents beside measured ones."""
    parser.add_argument(
        "--published",
        default="auto",
        metavar="ITEM",
        help="published exponents to show: auto, those of the studies' own parameterization, optimizer, loss, model "
        'and data (default); off; or those of a figure or table of the paper, such as "Fig 5" or "Table F.1"',
    )


def add_strict(parser: RequestParser) -> None:
    """The flag of verbs that leave runs out."""
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a run is left out")


def strict_code(strict: bool, study: AnyStudy) -> int:
    """The exit code; says why it is not 0."""
    count = max(len(study.left_out), study.n_unfinished + study.n_failed)
    if not strict or not count:
        return 0
    print(f"pipeline: --strict: {plural(count, 'run')} of {study.name} left out", file=sys.stderr)
    return 1


def folder_of(fitted: StudyFit | SurfaceFit, out: Path | None) -> Path:
    """Where the files of a fit go; made if it is not there. Raises `RequestError`."""
    folder = fitted.study.folder if out is None else out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{folder}: cannot be made ({error.strerror}); --out names another folder") from None
    return folder


def study_args(parsed: argparse.Namespace) -> Asked:
    """Raises `RequestError` for values that no run records, and for flags that do not go with the sources."""
    return asked(
        parsed.study,
        metric=parsed.metric,
        value=parsed.value,
        estimator=parsed.estimator,
        axis=parsed.axis,
        columns=None if parsed.columns is None else parse_columns(parsed.columns),
        group=parsed.group,
        processes=cores(),
    )
