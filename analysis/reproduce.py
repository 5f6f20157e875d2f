"""Measures the cheapest claims anew, beside what `results/` has: ``python -m analysis.reproduce [--studies 5] [--runs
runs/reproduce]``. On the machine that made them the same settings give the same digits; another BLAS path gives others,
inside their intervals. Ends with 1 where one lies outside.
"""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis import claims, figure
from analysis.claims import RESULTS, Claim, rows
from pipeline.analysis.page import words
from pipeline.cli.arguments import RequestParser
from pipeline.cli.main import script
from pipeline.console import table
from pipeline.errors import RequestError, require


@dataclass(frozen=True)
class Study:
    """What a claim rests on."""

    name: str
    table: str
    """Of `results/`."""
    hours: float
    """That its runs took together."""
    train: tuple[tuple[str, ...], ...]
    """Commands, without ``python``."""
    measure: tuple[str, ...]
    made: Path
    """The table that these make."""


def studies(runs: Path) -> list[Study]:
    """Those of all claims whose tables say what they took, cheapest first; the linear model needs no training."""
    found = {}
    for claim in claims.claims():
        hours = _of(claim.table, claim.study)[0].get("hours")
        name = claim.table if claim.table == "linear_model" else claim.study
        made = runs / name / f"{claim.table}.csv"
        if name == claim.table:
            found[name] = Study(
                name, claim.table, 0.0, (), ("analysis/linear_model.py", "--out", str(made.parent)), made
            )
        elif hours:
            train = _training(claim, runs)
            study = train[train.index("--out") + 1] + "/" + train[train.index("--study") + 1]
            measure = ("analysis/measured.py", study, *_measured_with(claim.table), "--out", str(made))
            found[name] = Study(name, claim.table, float(hours), (train,), measure, made)
    return sorted(found.values(), key=lambda one: one.hours)


def _training(claim: Claim, runs: Path) -> tuple[str, ...]:
    """The command line of `claims.yaml`, or that of the figure's study of this name."""
    if claim.command.startswith("pipeline "):
        words = shlex.split(claim.command)[1:]
        return ("-m", "pipeline", *words, "--study", claim.study, "--out", str(runs))
    commands = figure.trainings(figure.find(claim.figure), "laptop", runs)
    return ("-m", "pipeline", *next(one.argv for one in commands if one.study == claim.study))


def _measured_with(name: str) -> tuple[str, ...]:
    """The flags after the studies, in the command that stands in a table's first line."""
    with (RESULTS / f"{name}.csv").open() as file:
        words = shlex.split(file.readline().removeprefix("#"))
    flags = words[next(i for i, word in enumerate(words) if word.startswith("--")) :]
    return tuple(flags[: flags.index("--out")])


def _of(name: str, study: str) -> list[dict[str, str]]:
    """What was measured before of a study; of the linear model, all of it."""
    return [row for row in rows(RESULTS / f"{name}.csv") if name == study or row["study"] == study]


def compare(study: Study) -> list[tuple[str, ...]]:
    """A line per exponent that was measured before: what it was, what it is, how they stand to each other."""
    made = {(row["study"], row["group"], row["quantity"]): row for row in rows(study.made)}
    lines: list[tuple[str, ...]] = []
    for row in _of(study.table, study.name):
        if not row["exponent"] or row["quantity"].endswith("_lr"):
            continue
        now = made.get((row["study"], row["group"], row["quantity"]), {}).get("exponent", "")
        if now == row["exponent"]:
            verdict = "same digits"
        elif now and float(row["ci_low"]) <= float(now) <= float(row["ci_high"]):
            verdict = "inside"
        else:
            verdict = "OUTSIDE"
        before = f"{row['exponent']} ({row['ci_low']} to {row['ci_high']})"
        line = (words.plain(f"{row['study']}, {row['group']}"), row["quantity"], before, now or "none", verdict)
        lines += [line] if line not in lines else []
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    parser = RequestParser(prog="reproduce.py", description=__doc__)
    parser.add_argument("--studies", type=int, default=5, metavar="N", help="how many (default: 5)")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/reproduce"), help="where they go (default: %(default)s)"
    )
    try:
        args = parser.parse_args(argv)
        require(args.studies > 0, f"--studies must be positive, got {args.studies}")
        lines: list[tuple[str, ...]] = []
        for study in studies(args.runs)[: args.studies]:
            for command in (*study.train, study.measure):
                print(f"$ {shlex.join(['python', *command])}", flush=True)
                study.made.parent.mkdir(parents=True, exist_ok=True)
                if code := subprocess.run([sys.executable, *command], check=False).returncode:
                    return code
            lines += compare(study)
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    print("", *table([("study", "quantity", "before (95 %)", "now", ""), *lines]), sep="\n")
    return int(any(line[-1] == "OUTSIDE" for line in lines))


if __name__ == "__main__":
    sys.exit(script(main))
