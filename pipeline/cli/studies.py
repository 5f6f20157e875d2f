"""The arguments of the verbs on studies: folders or tables, what runs are compared by, the estimator."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.analysis.fit.estimators import DEFAULT, ESTIMATORS
from pipeline.analysis.fit.study_fit import StudyFit, fit_study
from pipeline.analysis.fit.surface import SurfaceFit, fit_surfaces
from pipeline.analysis.study.along import along
from pipeline.analysis.study.axis import AXES
from pipeline.analysis.study.load import load_study
from pipeline.analysis.study.measure import METRICS, VALUES, Measure
from pipeline.analysis.study.studies import AnyStudy, Compared
from pipeline.analysis.study.tables.columns import NAMES, Ask, parse_columns, parse_list
from pipeline.analysis.study.tables.read import READERS, is_table
from pipeline.analysis.study.tables.table import load_tables
from pipeline.cli.arguments import RequestParser, user_path
from pipeline.console import plural
from pipeline.errors import RequestError

_OF_TABLES = ("columns", "group")
_OF_STUDIES = ("metric", "value")


@dataclass(frozen=True)
class StudyArgs:
    """What every verb on studies takes."""

    sources: list[str]
    measure: Measure
    estimator: str
    ask: Ask | None
    """Of tables; None: the sources are study folders."""
    axes: tuple[str, ...] = ()
    """Of study folders, by their names; none: width."""

    @property
    def dirs(self) -> list[Path]:
        """The study folders. Raises `RequestError` where the sources are tables."""
        if self.ask is not None:
            raise RequestError(f"{self.sources[0]} is a table: this needs a study folder")
        return [Path(source) for source in self.sources]

    def fit(self) -> StudyFit:
        """Along one axis. Raises `RequestError`."""
        fitted = self.fit_axes()
        if isinstance(fitted, SurfaceFit):
            first, second = (axis.name for axis in fitted.axes)
            raise RequestError(f"--axis {first},{second}: this draws one axis; pipeline fit and predict know two")
        return fitted

    def fit_axes(self) -> StudyFit | SurfaceFit:
        """Along one axis or two. Raises `RequestError`."""
        measure: Compared = self.measure
        if self.ask is None:
            study: AnyStudy = along(load_study(self.dirs), self.axes)
        else:
            study = table = load_tables(self.sources, self.ask)
            measure = table.measure
        if study.second is None:
            return fit_study(study, measure, self.estimator)
        if self.estimator != DEFAULT:
            raise RequestError(f"--estimator {self.estimator} knows one axis: two are fitted by {DEFAULT}")
        return fit_surfaces(study, measure)


def study_parser(verb: str, description: str) -> RequestParser:
    """A parser with the arguments of `StudyArgs`."""
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


def study_args(parsed: argparse.Namespace) -> StudyArgs:
    """Raises `RequestError` for values that no run records, and for flags that do not go with the sources."""
    try:
        measure = Measure(parsed.metric or "train", parsed.value or "tail")
    except ValueError as error:
        raise RequestError(str(error)) from None
    axes = parse_list("--axis", parsed.axis, most=2) if parsed.axis else ()
    tables = [source for source in parsed.study if is_table(source)]
    if not tables:
        for source in parsed.study:
            if Path(source).is_file():
                raise RequestError(f"{source}: tables of runs are files that end in {', '.join(READERS)}")
        _refuse(parsed, _OF_TABLES, f"is for tables of runs: {parsed.study[0]} is none")
        return StudyArgs(parsed.study, measure, parsed.estimator, None, axes)
    if len(tables) < len(parsed.study):
        other = next(source for source in parsed.study if source not in tables)
        raise RequestError(f"{tables[0]} is a table and {other} is none: fit tables and study folders apart")
    _refuse(parsed, _OF_STUDIES, "is for study folders: of a table say --columns loss=COLUMN")
    group = None if parsed.group is None else parse_list("--group", parsed.group)
    return StudyArgs(parsed.study, measure, parsed.estimator, Ask(parse_columns(parsed.columns or ()), axes, group))


def _refuse(parsed: argparse.Namespace, flags: tuple[str, ...], why: str) -> None:
    for flag in flags:
        if getattr(parsed, flag) is not None:
            raise RequestError(f"--{flag} {why}")
