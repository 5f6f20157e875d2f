"""`pipeline ls`: the studies of a folder, with their runs, best run and size."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.cli.arguments import RequestParser
from pipeline.console import nbytes, table
from pipeline.errors import RequestError
from pipeline.run.directory import RunDir
from pipeline.run.study import require_study
from pipeline.sweep.status import StudyStatus, look


@dataclass(frozen=True)
class Listed:
    """A study in a line."""

    study: str
    runs: int
    states: dict[str, int]
    widths: list[int]
    best_run: str | None
    """Of the finished ones that of the smallest final training loss, which of several recipes compares little."""
    best_loss: float | None
    bytes: int


def main(argv: Sequence[str]) -> int:
    """`pipeline ls [FOLDER] [--json]`. Raises `RequestError`."""
    parser = RequestParser(prog="pipeline ls", description="The studies of a folder, or one study.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs"), help="default: runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    folder = arguments.folder
    if not folder.is_dir():
        raise RequestError(f"{folder}: no such folder")
    if (folder / "config.yaml").is_file():
        require_study(folder)
    own = any(folder.glob("*/config.yaml"))
    studies = [folder] if own else sorted({path.parents[1] for path in folder.glob("*/*/config.yaml")})
    listed = [_listed(study, look(study)) for study in studies if not study.name.startswith(".")]
    print(json.dumps([asdict(one) for one in listed], indent=2) if arguments.json else _words(folder, listed))
    return 0


def _listed(study: Path, status: StudyStatus) -> Listed:
    finals: dict[str, float] = {}
    for run in status.runs:
        if run.state == "finished" and (result := RunDir(study / run.run).result()) is not None:
            finals[run.run] = result.final_value("train_loss")
    finals = {run: loss for run, loss in finals.items() if math.isfinite(loss)}
    best = min(finals, key=finals.__getitem__, default=None)
    states = dict(Counter(run.state for run in status.runs))
    size = sum(path.stat().st_size for path in study.rglob("*") if path.is_file() and not path.is_symlink())
    widths = sorted({run.width for run in status.runs})
    return Listed(str(study), len(status.runs), states, widths, best, None if best is None else finals[best], size)


def _words(folder: Path, listed: Sequence[Listed]) -> str:
    if not listed:
        return f"{folder} holds no studies"
    rows = [("study", "runs", "states", "widths", "best loss", "of", "size")]
    for one in listed:
        states = ", ".join(f"{count} {state}" for state, count in one.states.items())
        widths = ",".join(map(str, one.widths))
        loss = "" if one.best_loss is None else f"{one.best_loss:.4g}"
        rows.append((one.study, str(one.runs), states, widths, loss, one.best_run or "", nbytes(one.bytes)))
    return "\n".join(table(rows, lead=""))
