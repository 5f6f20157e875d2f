"""`pipeline sweep`: a study, planned and launched; `pipeline sweep status`: how it goes."""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.cli.arguments import RequestParser, parse, taken
from pipeline.config import ModelConfig
from pipeline.console import wrapped
from pipeline.errors import RequestError
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.status import look
from pipeline.sweep.study import Planned, launcher, sweep

_OF_ADAPTIVE = ("target_half_width", "target_regret", "at_width")


def main(argv: Sequence[str]) -> int:
    """`pipeline sweep`, and `pipeline sweep status STUDY`. Raises `RequestError` for a wrong request."""
    if argv and argv[0] == "status":
        return _status(argv[1:])
    if argv and not argv[0].startswith("-"):
        raise RequestError(f"pipeline sweep {argv[0]}: expected flags, such as --widths 64,128, or: sweep status STUDY")
    calibrate, argv = taken(argv, "--calibrate")
    as_json, argv = taken(argv, "--json")
    config, dry_run = parse("sweep", argv)
    given = {word.partition("=")[0] for word in argv}
    for name in _OF_ADAPTIVE:
        if f"--{name}" in given and config.plan != "adaptive":
            raise RequestError(f"--{name} is for --plan adaptive: a grid makes all its runs")
    if as_json and dry_run:
        raise RequestError("--json prints a result, and --dry_run makes none: leave one of them out")
    if calibrate and not dry_run:
        raise RequestError("--calibrate goes with --dry_run: it measures what a study would take")

    def forecast(planned: Planned) -> None:
        from pipeline.sweep.launch import forecast, local

        workers = local.worker_count(config) if config.launcher == "local" else None
        print(*forecast.lines(planned.runs, workers, calibrate), sep="\n", flush=True)

    with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):  # where what goes on is said
        if config.model.name != ModelConfig().name:
            from pipeline.training.describe import named

            print(*named(config.run(width=max(config.widths))), sep="\n", flush=True)
        code = sweep(config, dry_run=dry_run, forecast=forecast)
    answers: list[str] = []
    if not code and not dry_run and launcher(config.launcher).WAITS:
        answers = _answers(config)
    if as_json:
        print(json.dumps(look(config.study_dir).to_json() | {"answers": answers}, indent=2))
    elif answers:
        print(*(line for text in answers for line in wrapped(text, "")), sep="\n")
        print(f"next: pipeline report {config.study_dir}")
    return code


def _answers(config: SweepConfig) -> list[str]:
    """The answer's first sentence, of every family of curves."""
    from pipeline.analysis.fit.study_fit import fit
    from pipeline.analysis.page import words
    from pipeline.analysis.page.phrases import phrases

    try:
        groups = fit([config.study_dir]).groups
    except RequestError as error:
        return [f"no fit yet: {error}"]
    every = (words.plain(phrases(group.estimator).answer(group)) for group in groups)
    return [text.partition(". ")[0].rstrip(".") + "." for text in every]


def _status(argv: Sequence[str]) -> int:
    """A table per width, what is going, and what failed and why."""
    parser = RequestParser(prog="pipeline sweep status", description="What the runs of a study are doing.")
    parser.add_argument("study", type=Path, help="the study's folder, such as runs/STUDY")
    parser.add_argument("--json", action="store_true", help="one JSON object, for scripts")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a run failed or is lost")
    arguments = parser.parse_args(argv)
    status = look(arguments.study)
    print(json.dumps(status.to_json(), indent=2) if arguments.json else status)
    return int(arguments.strict and any(run.state in ("failed", "lost") for run in status.runs))
