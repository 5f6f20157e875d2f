"""A figure or table of the paper by its number, trained and drawn as `analysis/figures.yaml` says: ``python
analysis/figure.py list``, ``... train F.14 [--size laptop|full] [-- FLAGS OF pipeline]``, ``... draw F.14``."""

import difflib
import functools
import itertools
import math
import re
import runpy
import shlex
import string
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.analysis.published import checks, exponents
from pipeline.cli import main as cli
from pipeline.cli.arguments import RequestParser
from pipeline.console import table
from pipeline.errors import RequestError, require
from pipeline.files import write_atomic
from pipeline.strict_yaml import parse_recipe

HERE = Path(__file__).parent
SIZES = ("laptop", "full")
_NUMBERS: Mapping[str, Callable[[str], Sequence[object]]] = {
    "lr_transfer": lambda item: exponents(item=item),
    "compare": lambda item: exponents(item=item),
    "coordinate_check": checks,
    "over_time": checks,
}
"""What was published under a figure or table, by the script that shows it."""


@dataclass(frozen=True)
class Figure:
    """An entry of `figures.yaml`."""

    id: str
    """``2``, ``F.14``, ``Table F.1``."""
    shows: str
    draw: tuple[str, ...]
    note: str = ""
    """What differs from the paper."""
    why: str = ""
    """Why it is not run."""

    @property
    def title(self) -> str:
        """As the paper and the published numbers call it: ``Figure F.14``, ``Table F.1``."""
        return self.id if self.id.startswith("Table") else f"Figure {self.id}"

    @property
    def studies(self) -> list[str]:
        """``DATA/STUDY``, in the order in which they are drawn."""
        return list(dict.fromkeys(word for line in self.draw for word in _words(line) if _is_study(word)))


@dataclass(frozen=True)
class Command:
    """A verb of `pipeline` with its flags, which trains a study."""

    study: str
    """The study's name, the same for whatever stands for it at that size."""
    argv: tuple[str, ...]


@functools.cache
def book() -> Mapping[str, Any]:
    """What `figures.yaml` says."""
    content: Mapping[str, Any] = parse_recipe((HERE / "figures.yaml").read_bytes())
    return content


def entries() -> dict[str, Figure]:
    """Every figure and table by its id, in the order of the file."""
    found = {}
    for key, entry in book()["figures"].items():
        found[key] = Figure(key, **{**entry, "draw": tuple(entry["draw"])})
    return found


def find(text: str) -> Figure:
    """``F.14``, ``Fig 5``, ``figure f14``, ``table f1``. Raises `RequestError` that names the nearest one."""
    known = {_plain(one.id): one for one in entries().values()}
    if (asked := _plain(text)) in known:
        return known[asked]
    near = [known[key].id for key in difflib.get_close_matches(asked, known, n=1, cutoff=0.1)]
    raise RequestError(f"no figure {text!r}{f', did you mean {near[0]}?' if near else ''} (figure.py list names them)")


def _plain(text: str) -> str:
    return re.sub(r"^FIG(URE)?|[^A-Z0-9]", "", text.upper().strip()).removeprefix("URE")


def _words(line: str) -> list[str]:
    """The words of a command, ``a-{b,c}`` as two."""
    found = []
    for word in line.split():
        parts = [part[1:-1].split(",") if part.startswith("{") else [part] for part in re.split(r"(\{.*?\})", word)]
        found += ["".join(one) for one in itertools.product(*parts)]
    return found


def _is_study(word: str) -> bool:
    return word.partition("/")[0] in book()["data"]


# ---------------------------------------------------------------------------------------------------------------------
# What trains and draws


def place(study: str, size: str) -> Mapping[str, Any]:
    """The data that ``DATA/STUDY`` has at a size."""
    found: Mapping[str, Any] = book()["data"][study.partition("/")[0]][size]
    return found


def name(study: str, size: str) -> str:
    """Of its folder. Studies of data that the same stand for are one."""
    return f"{place(study, size)['name']}-{study.partition('/')[2]}"


def training(study: str, size: str, runs: Path) -> Command:
    """What trains ``DATA/STUDY`` into a folder below `runs`. Flags of the data, the study and the size, later ones over
    earlier ones."""
    data, called = place(study, size), name(study, size)
    verb, flags = _flags(study.partition("/")[2], size)
    words = {key: str(value) for key, value in data.get("words", {}).items()}
    flags = re.sub(r"\{(\w+)\}", lambda found: words[found[1]], f"{data['flags']} {flags}")
    flags = re.sub(r"\{(\S+)\.\.(\S+)\}", lambda found: _half_decades(float(found[1]), float(found[2])), flags)
    return Command(called, (verb, *shlex.split(flags), "--study", called, "--out", str(runs / size)))


def _flags(study: str, size: str) -> tuple[str, str]:
    """Verb and flags of a study; those of the size come last, and its own over those of the study that it goes over."""
    entry = book()["studies"][study]
    entry = entry if isinstance(entry, Mapping) else {"flags": entry}
    own, verb, below, last = entry.get("flags", ""), entry.get("verb", "sweep"), "", entry.get(size, "")
    if (over := re.match(r"\{([\w-]+)\}", own)) and over[1] in book()["studies"]:
        verb, below = _flags(over[1], size)
        own = own[over.end() :]
    return verb, " ".join(part for part in (below, own.strip(), last) if part)


def _half_decades(first: float, last: float) -> str:
    count = round(2 * math.log10(last / first)) + 1
    return ",".join(f"{first * 10 ** (place / 2):.5g}" for place in range(count))


def trainings(figure: Figure, size: str, runs: Path) -> list[Command]:
    """What trains a figure, each study once."""
    return list(dict.fromkeys(training(study, size, runs) for study in figure.studies))


def drawings(figure: Figure, size: str, runs: Path, out: Path) -> list[list[str]]:
    """Scripts of `analysis/`, or ``pipeline`` and a verb, with their arguments: of several, each has a folder of its
    own, a letter."""
    found: list[list[str]] = []
    for line in figure.draw:
        script, *words = _words(line)
        studies = dict.fromkeys(str(runs / size / name(word, size)) for word in words if _is_study(word))
        flags = [word for word in words if not _is_study(word)]
        if script in _NUMBERS and _NUMBERS[script](figure.title):
            flags += ["--published", figure.title]
        found.append([script, *studies, *flags])
    unique = [list(one) for one in dict.fromkeys(map(tuple, found))]  # laptops have the same data for several
    drawn = [one for one in unique if one[0] != "pipeline"]
    for letter, one in zip(string.ascii_lowercase, drawn, strict=False):
        one += ["--out", str(out / letter if len(drawn) > 1 else out)]
    return unique


# ---------------------------------------------------------------------------------------------------------------------
# The command line


def main(argv: Sequence[str] | None = None) -> int:
    asked = list(sys.argv[1:] if argv is None else argv)
    asked, rest = (asked[: asked.index("--")], asked[asked.index("--") + 1 :]) if "--" in asked else (asked, [])
    parser = RequestParser(prog="figure.py", description=__doc__)
    add = parser.add_argument
    add("verb", choices=("list", "train", "draw", "readme"), help="readme: write the table of analysis/README.md anew")
    add("figure", nargs="?", help='such as 5, F.14 or "Table F.1"')
    add("--size", choices=SIZES, default="laptop", help="as published, or one that a laptop finishes (default: laptop)")
    add("--runs", type=Path, default=Path("runs/paper"), help="folder of the studies, by size (default: %(default)s)")
    add("--out", type=Path, help="folder of the drawings (default: figures/FIGURE beside the studies)")
    add("--dry_run", action="store_true", help="print what would be run, and run nothing")
    try:
        args = parser.parse_args(asked)
        require(not rest or args.verb == "train", f"what follows -- goes to pipeline, which {args.verb} does not need")
        if args.verb == "readme":
            write_atomic(HERE / "README.md", readme((HERE / "README.md").read_text()))
            return 0
        if args.verb == "list":
            print(*table([(one.title, one.shows) for one in entries().values()], lead=""), sep="\n")
            return 0
        require(args.figure, f"figure.py {args.verb}: name a figure, such as F.14")
        figure = find(args.figure)
        if args.verb == "train":
            return _train(figure, args.size, args.runs, rest, args.dry_run)
        out = args.out or args.runs / args.size / "figures" / figure.title.replace("Figure ", "").replace(" ", "-")
        return _draw(figure, args.size, args.runs, out, args.dry_run)
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2


def _train(figure: Figure, size: str, runs: Path, rest: Sequence[str], dry_run: bool) -> int:
    """One study after another. A failing one ends it with its exit code; the same command goes on."""
    commands = trainings(figure, size, runs)
    if not commands:
        print(f"{figure.title}: nothing to train{f' ({figure.why})' if figure.why else ''}")
    for command in commands:
        argv = [*command.argv, *rest, *(["--dry_run"] if dry_run else [])]
        print(f"$ {shlex.join(['pipeline', *argv])}", flush=True)
        if code := cli.main(argv):
            return code
    return 0


def _draw(figure: Figure, size: str, runs: Path, out: Path, dry_run: bool) -> int:
    """Raises `RequestError` for studies that nobody trained."""
    for script, *argv in drawings(figure, size, runs, out):
        said = [script] if script == "pipeline" else ["python", f"analysis/{script}.py"]
        print(f"$ {shlex.join([*said, *argv])}", flush=True)
        if dry_run:
            continue
        for folder in (runs / size / name(study, size) for study in figure.studies):
            require(
                folder.is_dir(), f"{folder} is not there: python analysis/figure.py train {figure.id!r} --size {size}"
            )
        run = cli.main if script == "pipeline" else runpy.run_path(str(HERE / f"{script}.py"))["main"]
        if code := int(run(argv)):
            return code
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# The table of `analysis/README.md`


MARKS = ("<!-- figures -->", "<!-- /figures -->")


def readme_table() -> str:
    """Every figure and table, as Markdown."""
    lines = ["| item | what it shows | train | draw | run | drawn |", "|---|---|---|---|---|---|"]
    for one in entries().values():
        asked = f'"{one.id}"' if " " in one.id else one.id
        cells = (
            one.title,
            one.shows + (f" ({one.note})" if one.note else ""),
            f"`train {asked}`" if one.studies else "",
            f"`draw {asked}`",
            "y" if one.studies else f"n: {one.why}" if one.why else "nothing to train",
            "as text" if all(line.startswith("pipeline ") for line in one.draw) else "y",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def readme(text: str) -> str:
    """The text with the table between its marks."""
    before, rest = text.split(MARKS[0])
    return f"{before}{MARKS[0]}\n{readme_table()}\n{MARKS[1]}{rest.split(MARKS[1])[1]}"


if __name__ == "__main__":
    sys.exit(cli.script(main))
