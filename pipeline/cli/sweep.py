"""`pipeline sweep`: a study, planned and launched; `pipeline sweep status`: how it goes."""

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.cli.arguments import RequestParser, parse
from pipeline.errors import RequestError
from pipeline.sweep.status import look
from pipeline.sweep.study import sweep


def main(argv: Sequence[str]) -> int:
    """`pipeline sweep`, and `pipeline sweep status STUDY`. Raises `RequestError` for a wrong request."""
    if argv and argv[0] == "status":
        return _status(argv[1:])
    if argv and not argv[0].startswith("-"):
        raise RequestError(f"pipeline sweep {argv[0]}: expected flags, such as --widths 64,128, or: sweep status STUDY")
    config, dry_run = parse("sweep", argv)
    return sweep(config, dry_run=dry_run)


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
