"""`pipeline predict`: the learning rate for a width, trained or not, with its interval, from a study's own runs."""

from collections.abc import Sequence

from pipeline.analysis.fit.predict import predict
from pipeline.analysis.page.tables import to_json
from pipeline.analysis.page.words_predict import as_json, summary
from pipeline.cli.arguments import RequestParser
from pipeline.cli.studies import study_args, study_parser
from pipeline.errors import RequestError


def _parser() -> RequestParser:
    parser = study_parser("predict", "The learning rate for a width, trained or not, with its interval.")
    parser.add_argument("--width", type=int, required=True, help="width n, such as 8192")
    parser.add_argument("--level", type=float, default=0.9, help="mass of the intervals (default: 0.9)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of words")
    return parser


def main(argv: Sequence[str]) -> int:
    """`pipeline predict STUDY... --width N [--level 0.9] [--json] [--estimator ...]`. Writes nothing."""
    parsed = _parser().parse_args(argv)
    args = study_args(parsed)
    if parsed.width < 1:
        raise RequestError(f"--width must be at least 1, got {parsed.width}")
    if not 0 < parsed.level < 1:
        raise RequestError(f"--level must lie between 0 and 1, got {parsed.level:g}")
    fitted = args.fit()
    predictions = [predict(group, parsed.width, parsed.level) for group in fitted.groups]
    print(to_json(as_json(fitted, predictions)) if parsed.json else summary(fitted, predictions))
    return 0
