"""`pipeline <verb>`: the verbs and their exit codes. Everything heavy is imported by the verb that needs it."""

import difflib
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from pipeline import __version__
from pipeline.errors import RequestError

VERBS = {
    "train": ("pipeline.cli.train", "one run: pipeline train --width 1024 --param sp --lr 3e-3"),
    "sweep": (
        "pipeline.cli.sweep",
        "a study: widths x learning rates x seeds x parameterizations, here or through SLURM; sweep status",
    ),
    "data": ("pipeline.cli.data", "prepare, info, verify: pipeline data prepare dclm --tokens 1.4B"),
    "fit": ("pipeline.cli.fit", "runs -> optimum, stability edge and exponents: pipeline fit runs/STUDY"),
    "theory": ("pipeline.cli.theory", "predicted exponents: pipeline theory --param sp --optimizer sgd, or --all"),
    "predict": (
        "pipeline.cli.predict",
        "the learning rate for a width, with its interval: pipeline predict runs/STUDY --width 8192",
    ),
    "coordcheck": (
        "pipeline.cli.coordcheck",
        "measured width exponents beside the predicted ones, per layer: pipeline coordcheck --widths 64,128,256",
    ),
    "export": ("pipeline.cli.export", "a run's weights for litgpt and transformers: pipeline export runs/STUDY/RUN"),
    "report": ("pipeline.cli.report", "one self-contained HTML page and figures: pipeline report runs/STUDY"),
}
"""Verb -> the module whose ``main(argv)`` gives the exit code, imported when it is asked for; and a line of help."""

USAGE = f"""usage: pipeline <verb> [flags]

What learning rate at width n, and how sure are we? (width-scaling-pipeline {__version__})

verbs:
{chr(10).join(f"  {name:10} {text}" for name, (_, text) in VERBS.items())}

pipeline <verb> --help lists a verb's flags."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb. 0: done; 1: the work failed; 2: the request was wrong, and one line says what to change."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    verb, rest = arguments[0], arguments[1:]
    try:
        if verb not in VERBS:
            near = difflib.get_close_matches(verb, VERBS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(VERBS)}"
            raise RequestError(f"no verb {verb!r}: {hint}")
        code: int = import_module(VERBS[verb][0]).main(rest)
        return code
    except RequestError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("interrupted; the same command continues", 1)
    except OSError as error:
        return _fail(f"{error.strerror or error}: {error.filename}" if error.filename else str(error), 1)
    except Exception as error:
        if os.environ.get("PIPELINE_TRACEBACK"):
            traceback.print_exc()
        first = (str(error).splitlines() or [""])[0]
        return _fail(f"{type(error).__name__}: {first} (PIPELINE_TRACEBACK=1 shows where)", 1)


def _fail(message: str, code: int) -> int:
    # what users type and files hold may have line breaks, and codes that a terminal obeys
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in message)
    print(f"pipeline: error: {shown}", file=sys.stderr)
    return code
