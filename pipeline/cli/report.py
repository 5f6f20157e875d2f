"""`pipeline report`: one self-contained HTML page with the study's answer, charts and tables, and the figures; once, or
again and again while a sweep goes."""

import contextlib
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.analysis.page import figures, figures_compare, inside
from pipeline.analysis.page.report import render
from pipeline.analysis.page.summary import summary
from pipeline.analysis.page.tables import content, to_json, write, write_text
from pipeline.cli.studies import add_out, add_strict, folder_of, strict_code, study_args, study_parser
from pipeline.errors import RequestError
from pipeline.library import Asked
from pipeline.sweep.status import going

SHARE = 60
"""A page that is watched costs a second of computing in so many at most."""
POLL, LOOKS = 5, 2
"""Seconds between looks at whether the sweep goes, and looks in a row that say no, after which it has ended: between
two rounds of a plan, and before the first, nothing is held for a moment."""


def main(argv: Sequence[str]) -> int:
    """`pipeline report STUDY... [--watch] [--json] [--metric ...] [--value ...] [--estimator ...]`, and tables as
    `pipeline fit` takes them. Files go into the first study's folder, or beside the first table."""
    parser = study_parser("report", "One HTML page and the figures of a study.")
    add_out(parser)
    add_strict(parser)
    parser.add_argument(
        "--watch",
        action="store_true",
        help="while a sweep of these studies goes, write the page anew as runs finish; it reads itself anew",
    )
    parser.add_argument(
        "--json", action="store_true", help="print what fit.json holds, and the files that were written"
    )
    parsed = parser.parse_args(argv)
    args = study_args(parsed)
    if parsed.watch:
        with contextlib.redirect_stdout(sys.stderr if parsed.json else sys.stdout):
            _watch(args, parsed.out)
    fitted = args.fit()
    folder = folder_of(fitted, parsed.out)
    looked = inside.section(fitted)
    page = write_text(folder / "report.html", render(fitted, looked))
    drawn = {"lr_transfer": figures.lr_curves(fitted)} | looked.figures
    if len(fitted.groups) > 1:
        drawn["comparison"] = figures_compare.compare_figure(fitted)
    saved = [path for name, figure in drawn.items() for path in figures.save(figure, folder / "figures", name)]
    files = [page, *write(fitted, folder), *saved]
    if parsed.json:
        print(to_json(content(fitted) | {"files": [str(path) for path in files]}), end="")
    else:
        print(summary(fitted), "", *files, sep="\n")
    return strict_code(parsed.strict, fitted.study)


def _watch(args: Asked, out: Path | None) -> None:
    """Write the page whenever runs have finished, until nothing works on the studies any more. At the lowest priority,
    and with pauses `SHARE` times as long as what it computed: a sweep beside it does not feel it."""
    if not all(path.is_dir() for path in args.dirs):
        return  # the caller says so
    os.nice(19)
    known: list[Path] = []
    idle = 0
    while idle < LOOKS:
        begun = time.process_time()
        ended = sorted(file for path in args.dirs for file in path.glob("*/result.json"))
        if ended != known:
            known = ended
            try:
                fitted = args.fit()
                page = write_text(folder_of(fitted, out) / "report.html", render(fitted, going=True))
                print(f"{time.strftime('%T')} {page}: {len(fitted.study.runs)} runs", flush=True)
            except RequestError as error:  # none is of use yet; what is wrong for good is said at the end
                print(f"{time.strftime('%T')} {error}", flush=True)
        pause = SHARE * (time.process_time() - begun)
        for _ in range(max(1, math.ceil(pause / POLL))):
            time.sleep(POLL)
            idle = 0 if any(going(path) for path in args.dirs) else idle + 1
            if idle == LOOKS:
                break
