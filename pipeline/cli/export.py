"""`pipeline export`: a run's checkpoint as folders that other programs load."""

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.cli.arguments import RequestParser
from pipeline.export.litgpt import export, how_to_load


def main(argv: Sequence[str]) -> int:
    """`pipeline export RUN_DIR [--out FOLDER] [--lit_model] [--json]`. Raises `RequestError` for a wrong request."""
    parser = RequestParser(
        prog="pipeline export",
        description="The last checkpoint of a GPT's run as a folder for litgpt, and for transformers or plain torch.",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="runs/STUDY/RUN")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="default: RUN_DIR/export")
    parser.add_argument(
        "--lit_model",
        action="store_true",
        help="also lit_model.pth, a second copy of the weights, for litgpt's commands and litgpt.LLM.load",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, for scripts")
    flags = parser.parse_args(argv)
    exported = export(flags.run, flags.out or flags.run / "export", lit_model=flags.lit_model)
    if flags.json:
        load = dict(line.split(": ", 1) for line in how_to_load(exported))
        what = {"folder": str(exported.folder), "step": exported.step, "files": exported.files}
        print(json.dumps(what | {"left_out": exported.left_out, "load": load}, indent=2))
        return 0
    print(f"exported step {exported.step} to {exported.folder}: {', '.join(exported.files)}")
    print(*exported.left_out, *how_to_load(exported), sep="\n")
    return 0
