"""Fits every table of runs in a folder and draws the exponents by source and axis beside the rules that people quote
(`analysis/rules.csv`): ``python analysis/atlas.py --from DIR [--along ladder=n] [--out DIR]``.

A table is what ``pipeline fit TABLE`` reads. Three columns more, where a table has them, cut it into studies that are
fitted one by one: ``source`` (else the file's name), ``study``, and ``axis``, which says what varies in a study: an
axis by its name or its symbol (width or n, parameters or N, tokens or D, batch or B, depth or L), or any column.
``--along`` names the column of an axis that is none. Writes atlas.csv, every exponent with its 95 % interval, and the
figure atlas.
"""

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

import pipeline
from pipeline.analysis.fit.fitted import QUANTITIES
from pipeline.analysis.fit.surface import SurfaceFit
from pipeline.analysis.page import figures
from pipeline.analysis.page.figures_atlas import Row, Rule, atlas
from pipeline.analysis.page.tables import make_folder, write_text
from pipeline.analysis.study.axis import AXES
from pipeline.analysis.study.tables.read import READERS, read
from pipeline.cli.arguments import RequestParser
from pipeline.cli.main import script
from pipeline.console import table
from pipeline.errors import RequestError, require

RULES = Path(__file__).with_name("rules.csv")
NAMED = {axis.symbol: name for name, axis in AXES.items()}
"""What the values of an ``axis`` column may be, beside axes and columns themselves."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = RequestParser(prog="atlas.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--from", dest="folder", type=Path, required=True, metavar="DIR", help="folder of tables")
    parser.add_argument("--along", action="append", default=[], metavar="AXIS=COLUMN", help="the column of an axis")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where the results go (default: here)")
    try:
        args = parser.parse_args(argv)
        along = dict(_pair(text) for text in args.along)
        make_folder(args.out)
        found = list(_rows(args.folder, along))
        require(bool(found), f"{args.folder}: no study there has an exponent")
        rows = pd.DataFrame(found)
        paths = [
            write_text(args.out / "atlas.csv", rows.to_csv(index=False, float_format="%.6g")),
            *figures.save(atlas(found, rules()), args.out, "atlas"),
        ]
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    print(*_summary(rows), "", *paths, sep="\n")
    return 0


def rules() -> list[Rule]:
    """Those of `RULES`."""
    with RULES.open(newline="") as stream:
        return [
            Rule(row["axis"], row["param"], row["optimizer"], float(row["exponent"]), row["rule"], row["source"])
            for row in csv.DictReader(stream)
        ]


def _pair(text: str) -> tuple[str, str]:
    name, equals, column = text.partition("=")
    require(bool(name and equals and column), f"--along {text}: expected AXIS=COLUMN, such as ladder=n")
    return name, column


def _rows(folder: Path, along: dict[str, str]) -> Iterator[Row]:
    require(folder.is_dir(), f"{folder}: no such folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in READERS)
    require(bool(paths), f"{folder}: no tables ({', '.join(READERS)})")
    for path in paths:
        frame = read(str(path)).frame
        for name in ("source", "study", "axis"):
            if name not in frame:
                frame[name] = path.stem if name == "source" else ""
        for (source, study, axis), part in frame.groupby(["source", "study", "axis"], sort=True):
            yield from _study(path, str(source), str(study), str(axis), part.reset_index(drop=True), along)


def _study(path: Path, source: str, study: str, axis: str, part: pd.DataFrame, along: dict[str, str]) -> Iterator[Row]:
    """Studies that have no exponent are said on stderr and left out."""
    part = part.drop(columns=["source", "study", "axis"])
    name = NAMED.get(axis, axis)
    column = along.get(axis, axis)
    known = {name: column} if name in AXES and column in part else None
    try:
        fitted = pipeline.fit(part, axis=name if known else column if axis else None, columns=known)
        if isinstance(fitted, SurfaceFit):
            raise RequestError("two axes differ at once: say one in a column `axis`")
        laws = [law for group in fitted.groups for law in group.fitted.laws.values()]
        require(any(law.estimable for law in laws), "no exponent: it takes two levels with an optimum or an edge")
    except RequestError as error:
        print(f"{path.name}: {study or source}: left out: {error}", file=sys.stderr)
        return
    for group in fitted.groups:
        for quantity in QUANTITIES:
            law = group.fitted.laws[quantity]
            if not np.isnan(law.exponent):
                yield Row(
                    source,
                    study,
                    axis if axis and not known else fitted.study.axis.name,
                    str(group.head.get("param", "")),
                    str(group.head.get("optimizer", "")),
                    quantity,
                    law.n_widths,
                    min(law.widths),
                    max(law.widths),
                    len(group.grid.runs),
                    law.exponent,
                    law.ci_low,
                    law.ci_high,
                )


def _summary(rows: pd.DataFrame) -> list[str]:
    """Per source, axis and family: how many studies, and their exponents' median and spread."""
    lines = [["source", "axis", "param", "optimizer", "quantity", "studies", "median", "10 %", "90 %"]]
    for key, part in rows.groupby(["source", "axis", "param", "optimizer", "quantity"], sort=True):
        spread = part["exponent"].quantile([0.5, 0.1, 0.9])
        lines.append([*map(str, key), str(len(part)), *(f"{value:.2f}" for value in spread)])
    return table(lines)


if __name__ == "__main__":
    sys.exit(script(main))
