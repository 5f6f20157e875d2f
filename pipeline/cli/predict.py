"""`pipeline predict`: the learning rate for a width, trained or not, with its interval, from a study's own runs; and
the ledger of such predictions, scored once the width was trained."""

import argparse
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.analysis.fit import ledger
from pipeline.analysis.fit.predict import predict
from pipeline.analysis.fit.scores import score
from pipeline.analysis.fit.surface import SurfaceFit, predict_cells
from pipeline.analysis.page import words_ledger, words_surface, words_widths
from pipeline.analysis.page.tables import to_json
from pipeline.analysis.page.words_predict import as_json, summary
from pipeline.analysis.study.axis import AXES, WIDTH
from pipeline.analysis.study.load import load_study
from pipeline.analysis.study.runs import whole
from pipeline.cli.arguments import RequestParser, user_path
from pipeline.cli.studies import study_args, study_parser
from pipeline.errors import RequestError, require
from pipeline.ranges import spelled_out

_LEVEL = 0.9
_NOT_WITH_SCORE = ("--width", "--widths", "--level", "--metric", "--value", "--estimator")


def _parser() -> RequestParser:
    parser = study_parser("predict", "The learning rate for a width, trained or not, with its interval.")
    add = parser.add_argument
    add("--width", dest="at_width", metavar="N", help="width n, such as 8192")
    add("--widths", metavar="N,M", help="several, as a table: 2048,4096,8192")
    for axis in list(AXES.values())[1:]:
        add(f"--{axis.name}", dest=f"at_{axis.name}", metavar="LEVELS", help=f"{axis.noun}, for a table with that axis")
    add(
        "--at",
        metavar="LEVELS",
        help="levels of the table's axis: 8192, or several with commas: 20B,300B; of two axes NAME=8192,NAME=300B",
    )
    add("--level", type=float, default=_LEVEL, help=f"mass of the intervals (default: {_LEVEL})")
    add("--json", action="store_true", help="print JSON instead of words")
    where = f"FILE (default: {ledger.LEDGER} in the first study)"
    add(
        "--record",
        nargs="?",
        const="",
        metavar="FILE",
        type=user_path,
        help=f"add the prediction, before any run, to {where}",
    )
    add(
        "--score",
        nargs="?",
        const="",
        metavar="FILE",
        type=user_path,
        help=f"compare {where} with what was measured since",
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """`pipeline predict STUDY... --width N | --widths N,M [--level 0.9] [--record [FILE]] [--json] [--estimator ...]`,
    or `pipeline predict STUDY... --score [FILE] [--json]`. Writes nothing but what --record adds to its file."""
    parsed = _parser().parse_args(argv)
    if parsed.score is not None:
        return _score(parsed, argv)
    args = study_args(parsed)
    require(0 < parsed.level < 1, f"--level must lie between 0 and 1, got {parsed.level:g}")
    asked = _asked(parsed)
    fitted = args.fit_axes()
    if isinstance(fitted, SurfaceFit):
        return _over_axes(parsed, fitted, asked)
    given, levels = _one(asked)
    axis = fitted.study.axis
    says = f"--{axis.name}" if axis.name in AXES else "--at"
    require(given in ("at", axis.name), f"--{given}: the runs differ in {axis.name}; say {says} LEVEL")
    predictions = [predict(group, width, parsed.level) for width in levels for group in fitted.groups]
    content = as_json(fitted, predictions)
    said = (summary if len(levels) == 1 and parsed.widths is None else words_widths.summary)(fitted, predictions)
    if parsed.record is not None:
        require(axis is WIDTH or args.ask is not None, f"--record is about width: leave out --axis {axis.name}")
        path = _ledger(parsed.record, args.dirs)
        lines = ledger.lines(fitted, predictions)
        ledger.append(path, lines)
        content |= {"recorded": str(path)}
        said += f"\n\n{words_ledger.recorded(lines, path)}"
    print(to_json(content) if parsed.json else said)
    return 0


def _score(parsed: argparse.Namespace, argv: Sequence[str]) -> int:
    require(parsed.record is None, "--record and --score exclude each other: record before the runs, score after them")
    given = {part.partition("=")[0] for part in argv}
    for flag in _NOT_WITH_SCORE:
        require(flag not in given, f"--score scores all that was recorded, as it was recorded: leave out {flag}")
    dirs = study_args(parsed).dirs
    path = _ledger(parsed.score, dirs)
    lines = ledger.read(path)
    study = load_study(dirs)
    scored = score(study, lines)
    if parsed.json:
        print(to_json(words_ledger.as_json(scored, study.name, path)))
    else:
        print(words_ledger.summary(scored, study.name))
    return 0


def _over_axes(parsed: argparse.Namespace, fitted: SurfaceFit, asked: Mapping[str, list[float]]) -> int:
    """At every pair of the levels asked for."""
    names = [axis.name for axis in fitted.axes]
    says = f"say --at {names[0]}=LEVEL,{names[1]}=LEVEL"
    for name in names:
        require(name in asked, f"the runs differ in {names[0]} and {names[1]}: {says}")
    for name in asked:
        require(name in names, f"--{name}: the runs differ in {names[0]} and {names[1]}; {says}")
    require(parsed.record is None, "--record knows one axis: what is recorded is scored on a study of ours")
    first, second = (asked[name] for name in names)
    predictions = predict_cells(fitted, list(itertools.product(first, second)), parsed.level)
    say = words_surface
    print(to_json(say.as_json(fitted, predictions)) if parsed.json else say.prediction(fitted, predictions))
    return 0


def _asked(parsed: argparse.Namespace) -> dict[str, list[float]]:
    """The levels asked for, without repetitions, by axis; ``at``: of whatever the axis is. Raises `RequestError`."""
    require(
        parsed.at_width is None or parsed.widths is None, "--width and --widths exclude each other: give one of them"
    )
    flags = {name: (f"--{name}", getattr(parsed, f"at_{name}")) for name in AXES}
    if parsed.widths is not None:
        flags["width"] = ("--widths", parsed.widths)
    if parsed.at is not None and "=" in parsed.at:
        for part in parsed.at.split(","):
            name, _, text = (piece.strip() for piece in part.partition("="))
            require(flags.get(name, ("", None))[1] is None, f"--at {parsed.at}: {name} is given twice")
            flags[name] = (f"--at {name}", text)
    else:
        flags["at"] = ("--at", parsed.at)
    given = {name: (flag, text) for name, (flag, text) in flags.items() if text is not None}
    require(bool(given), "pipeline predict: the following arguments are required: --width N or --widths N,M")
    return {
        name: list(
            dict.fromkeys(
                _level(flag, str(one), name == "width") for part in text.split(",") for one in spelled_out(part)
            )
        )
        for name, (flag, text) in given.items()
    }


def _one(asked: Mapping[str, list[float]]) -> tuple[str, list[float]]:
    """The one axis of which levels are asked for. Raises `RequestError`."""
    require(len(asked) == 1, f"{' and '.join(f'--{name}' for name in asked)} exclude each other: give one of them")
    ((name, levels),) = asked.items()
    return name, levels


_LETTERS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def _level(flag: str, text: str, is_width: bool) -> float:
    """``8192``, ``300B``, ``0.25``."""
    number, letter = (text[:-1], text[-1].upper()) if text[-1:].upper() in _LETTERS else (text, "")
    try:
        level = float(number) * _LETTERS.get(letter, 1.0)
    except ValueError:
        says = "takes numbers such as 4096 or 300B, several with commas or as 1024:8192:x2"
        raise RequestError(f"{flag} {says}; got {text!r}") from None
    least = "at least 1" if is_width else "positive"
    require(level >= 1 if is_width else 0 < level < math.inf, f"{flag} must be {least}, got {text}")
    require(not is_width or level.is_integer(), f"{flag} must be a whole number, got {text}")
    return whole(level)


def _ledger(given: str, studies: Sequence[Path]) -> Path:
    return Path(given) if given else studies[0] / ledger.LEDGER
