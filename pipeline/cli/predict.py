"""`pipeline predict`: the learning rate for a width, trained or not, with its interval, from a study's own runs; and
the ledger of such predictions, scored once the width was trained."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from pipeline.analysis.fit import ledger
from pipeline.analysis.fit.predict import predict
from pipeline.analysis.fit.scores import score
from pipeline.analysis.page import words_ledger, words_widths
from pipeline.analysis.page.tables import to_json
from pipeline.analysis.page.words_predict import as_json, summary
from pipeline.analysis.study.load import load_study
from pipeline.cli.arguments import RequestParser
from pipeline.cli.studies import study_args, study_parser
from pipeline.errors import RequestError, require

_LEVEL = 0.9
_NOT_WITH_SCORE = ("--width", "--widths", "--level", "--metric", "--value", "--estimator")


def _parser() -> RequestParser:
    parser = study_parser("predict", "The learning rate for a width, trained or not, with its interval.")
    add = parser.add_argument
    add("--width", type=int, metavar="N", help="width n, such as 8192")
    add("--widths", metavar="N,M", help="several, as a table: 2048,4096,8192")
    add("--level", type=float, default=_LEVEL, help=f"mass of the intervals (default: {_LEVEL})")
    add("--json", action="store_true", help="print JSON instead of words")
    where = f"FILE (default: {ledger.LEDGER} in the first study)"
    add("--record", nargs="?", const="", metavar="FILE", help=f"add the prediction, before any run, to {where}")
    add("--score", nargs="?", const="", metavar="FILE", help=f"compare {where} with what was measured since")
    return parser


def main(argv: Sequence[str]) -> int:
    """`pipeline predict STUDY... --width N | --widths N,M [--level 0.9] [--record [FILE]] [--json] [--estimator ...]`,
    or `pipeline predict STUDY... --score [FILE] [--json]`. Writes nothing but what --record adds to its file."""
    parsed = _parser().parse_args(argv)
    if parsed.score is not None:
        return _score(parsed, argv)
    args = study_args(parsed)
    widths = _widths(parsed)
    require(0 < parsed.level < 1, f"--level must lie between 0 and 1, got {parsed.level:g}")
    fitted = args.fit()
    predictions = [predict(group, width, parsed.level) for width in widths for group in fitted.groups]
    content = as_json(fitted, predictions)
    said = (summary if parsed.widths is None else words_widths.summary)(fitted, predictions)
    if parsed.record is not None:
        path = _ledger(parsed.record, parsed.study)
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
    path = _ledger(parsed.score, parsed.study)
    lines = ledger.read(path)
    study = load_study(parsed.study)
    scored = score(study, lines)
    if parsed.json:
        print(to_json(words_ledger.as_json(scored, study.name, path)))
    else:
        print(words_ledger.summary(scored, study.name))
    return 0


def _widths(parsed: argparse.Namespace) -> list[int]:
    """Without repetitions. Raises `RequestError`."""
    one, several = parsed.width, parsed.widths
    require(one is None or several is None, "--width and --widths exclude each other: give one of them")
    if several is None:
        require(one is not None, "pipeline predict: the following arguments are required: --width N or --widths N,M")
        require(one >= 1, f"--width must be at least 1, got {one}")
        return [one]
    try:
        widths = list(dict.fromkeys(int(part) for part in several.split(",")))
    except ValueError:
        raise RequestError(
            f"--widths takes whole numbers with commas between, such as 2048,4096; got {several}"
        ) from None
    require(min(widths) >= 1, f"--widths must be at least 1, got {min(widths)}")
    return widths


def _ledger(given: str, studies: Sequence[Path]) -> Path:
    return Path(given) if given else studies[0] / ledger.LEDGER
