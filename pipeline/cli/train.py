"""`pipeline train`: one run."""

import json
from collections.abc import Sequence

from pipeline.cli.arguments import parse, taken
from pipeline.errors import RequestError
from pipeline.processes import first_process
from pipeline.run.directory import RunDir


def main(argv: Sequence[str]) -> int:
    """Train and say how it ended, with ``--json`` as one object; a finished run says so at once, without torch; with
    ``--dry_run`` say what would be trained. Raises `RequestError` for a wrong request."""
    as_json, argv = taken(argv, "--json")
    config, dry_run = parse("train", argv)
    if dry_run:
        if as_json:
            raise RequestError("--json prints a result, and --dry_run makes none: leave one of them out")
        from pipeline.mirrors.mirrors import require_packages
        from pipeline.training.describe import describe

        require_packages(config)
        print(describe(config))
        return 0

    def say(line: str) -> None:
        if first_process() and not as_json:
            print(line, flush=True)

    result = RunDir(config.run_dir).result()
    if result is not None:
        say(f"already {result.status}: {config.run_dir} (delete it to run it again)")
    else:
        from pipeline.training.trainer import train_aloud

        result = train_aloud(config, say, show_progress=not as_json)
    say(f"{result} ({result.steps} steps, {result.tokens:,} tokens, {result.seconds:.0f} s)")
    if as_json and first_process():
        print(json.dumps({"run": str(config.run_dir), **result.to_json()}, indent=2))
    return 0
