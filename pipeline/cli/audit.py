"""`pipeline audit`: what anybody's model and optimizer amount to, tensor by tensor, and what is off."""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.cli.arguments import RequestParser
from pipeline.errors import RequestError
from pipeline.parameterization.rules import TABLE
from pipeline.ranges import spelled_out

_DESCRIPTION = """What a model and its optimizer amount to. FUNCTION takes a width and returns model and optimizer, then
loss(model, batch) and batch where it wants its own: (model, optimizer), or a dict of these names. They are built at
every width and seed, measured, and trained for a few steps on one batch; nothing of them is changed."""


def main(argv: Sequence[str]) -> int:
    """`pipeline audit MODULE:FUNCTION --widths 128,256,512`. 1: it departs from what was expected. Raises
    `RequestError`."""
    parser = RequestParser(prog="pipeline audit", description=_DESCRIPTION)
    add = parser.add_argument
    add("build", metavar="MODULE:FUNCTION", help="such as mymodel:build, or src/mymodel.py:build")
    add("--widths", required=True, help="at least two, better three: 128,256,512 or 128:512:x2")
    add("--expect", metavar="NAME", help=f"a parameterization: exit with 1 unless it is that ({', '.join(TABLE)})")
    add("--seeds", type=int, default=2, help="builds per width; errors come from them and the widths (default: 2)")
    add("--steps", type=int, default=4, help="optimizer steps (default: 4)")
    add("--out", type=Path, metavar="FOLDER", help="write audit.html, with the figure, and audit.json")
    add("--json", action="store_true", help="print JSON")
    parsed = parser.parse_args(argv)
    widths = _widths(parsed.widths)
    from pipeline.analysis.page.tables import to_json
    from pipeline.audit import page, words
    from pipeline.audit.audit import audit
    from pipeline.audit.builds import find

    with contextlib.redirect_stdout(sys.stderr if parsed.json else sys.stdout):  # where a build says what it does
        found = audit(find(parsed.build), widths, expect=parsed.expect, seeds=parsed.seeds, steps=parsed.steps)
    files = [] if parsed.out is None else list(map(str, page.write(found, parsed.out)))
    if parsed.json:
        print(to_json(words.data(found) | ({"files": files} if files else {})).rstrip())
    else:
        print("\n".join([words.text(found), *(["", *files] if files else [])]))
    return 1 if parsed.expect and not found.ok else 0


def _widths(text: str) -> list[int]:
    numbers = [number for part in text.split(",") for number in spelled_out(part.strip())]
    try:
        return [int(number) for number in numbers]
    except ValueError:
        raise RequestError(f"--widths: expected numbers such as 128,256,512, got {text!r}") from None
