"""The table of claims at the top of `analysis/README.md`: what the paper says beside what `results/` measured, as
`claims.yaml` puts them together. ``python analysis/claims.py`` writes it anew."""

import csv
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.analysis.inside.check import FINITE_WIDTH
from pipeline.analysis.page import words
from pipeline.cli import main as cli
from pipeline.cli.arguments import RequestParser
from pipeline.errors import RequestError
from pipeline.files import write_atomic
from pipeline.strict_yaml import parse_recipe

HERE = Path(__file__).parent
RESULTS = HERE / "results"
MARKS = ("<!-- claims -->", "<!-- /claims -->")
TELLS = 0.25
"""Half an interval that tells exponents apart which differ by 1/2."""
ROUNDED = 0.005
"""What a published number may be off by its two digits."""
VERDICTS = {
    "agrees": "agree (the published exponent lies inside our 95 % interval)",
    "near": f"are near (of updates, at most {FINITE_WIDTH:g} outside it, which finite widths bend slopes by)",
    "compatible": "are compatible (inside an interval too wide to tell exponents 1/2 apart)",
    "no": "do not agree (the reason stands beside)",
}


@dataclass(frozen=True)
class Claim:
    """An entry of `claims.yaml`, and what was measured of it."""

    claim: str
    figure: str
    published: float
    table: str
    study: str
    exponent: float
    low: float
    high: float
    size: str
    command: str
    of_updates: bool = False
    """Whether it is an exponent of what coordinate checks record."""
    why: str = ""

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`."""
        outside = max(self.low - self.published, self.published - self.high) - ROUNDED
        if outside > 0:
            return "near" if self.of_updates and outside <= FINITE_WIDTH else "no"
        return "agrees" if (self.high - self.low) / 2 <= TELLS else "compatible"


def claims() -> list[Claim]:
    """In the order of the file. Raises `RequestError` for one of which nothing was measured, or which disagrees and
    does not say why."""
    content: Mapping[str, Any] = parse_recipe((HERE / "claims.yaml").read_bytes())
    found = [_claim(entry, content["tables"]) for entry in content["claims"]]
    for one in found:
        if one.verdict == "no" and not one.why:
            raise RequestError(f"claims.yaml: {one.claim} ({one.figure}): measured otherwise, and no why")
    return found


def _claim(entry: Mapping[str, str], tables: Mapping[str, Any]) -> Claim:
    table, study, quantity, *group = re.split(r"\s*\|\s*", entry["at"])
    found = [row for row in rows(RESULTS / f"{table}.csv") if (row["study"], row["quantity"]) == (study, quantity)]
    found = [row for row in found if all(part in row["group"] for part in group)]
    if len({(row["exponent"], row["group"]) for row in found}) != 1 or not found[0]["exponent"]:
        raise RequestError(f"claims.yaml: {entry['at']}: not one exponent in results/{table}.csv")
    one = found[0]
    exponent, low, high = (float(one[key]) for key in ("exponent", "ci_low", "ci_high"))
    about = tables[table]
    trained = about.get("train", {}).get(study)
    asked = f'"{entry["figure"]}"' if " " in entry["figure"] else entry["figure"]
    command = trained or f"python analysis/figure.py train {asked}"
    size = f"{about['size']}, {one['widths']} widths, {one['runs']} runs" if one["runs"] else about["size"]
    return Claim(entry["claim"], entry["figure"], float(entry["published"]), table, study, exponent, low, high, size,
                 command, " of " in quantity, entry.get("why", ""))  # fmt: skip


def rows(path: Path) -> list[dict[str, str]]:
    """Of a table of `results/`, that of the linear model too."""
    with path.open(newline="") as file:
        found = list(csv.DictReader(line for line in file if not line.startswith("#")))
    if found and "study" not in found[0]:
        names = {"study": "param", "group": "update", "exponent": "value"}
        found = [row | {new: row[old] for new, old in names.items()} | {"widths": "", "runs": ""} for row in found]
    return found


def table() -> str:
    """Every claim, as Markdown."""
    found = claims()
    counts = [f"{sum(one.verdict == verdict for one in found)} {text}" for verdict, text in VERDICTS.items()]
    lines = [
        f"{len(found)} claims were measured here:",
        *(f"- {count}" for count in counts),
        "",
        "| claim | figure | published | measured (95 %) | | size | trained by |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found:
        numbers = [words.number(value) for value in (one.exponent, one.low, one.high)]
        said = f"{'**no**' if one.verdict == 'no' else one.verdict}{f': {one.why}' if one.why else ''}"
        cells = (
            one.claim, one.figure, words.number(one.published), f"{numbers[0]} ({numbers[1]} to {numbers[2]})", said,
            one.size, f"`{one.command}`",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def readme(text: str) -> str:
    """The text with the table between its marks."""
    before, rest = text.split(MARKS[0])
    return f"{before}{MARKS[0]}\n{table()}\n{MARKS[1]}{rest.split(MARKS[1])[1]}"


def main(argv: Sequence[str] | None = None) -> int:
    try:
        RequestParser(prog="claims.py", description=__doc__).parse_args(argv)
        write_atomic(HERE / "README.md", readme((HERE / "README.md").read_text()))
        print(HERE / "README.md")
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(cli.script(main))
