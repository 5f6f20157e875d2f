"""`pipeline <verb>`: the verbs and their exit codes. Everything heavy is imported by the verb that needs it."""

import difflib
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from pipeline.errors import RequestError, in_a_line
from pipeline.imports import spare_metrics
from pipeline.version import __version__

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
    "audit": (
        "pipeline.cli.audit",
        "what any model and optimizer amount to: pipeline audit mymodel:build --widths 128,256,512",
    ),
    "ls": ("pipeline.cli.ls", "studies with their runs, best run and size: pipeline ls runs"),
    "completion": ("pipeline.cli.completion", "what a shell completes: pipeline completion bash, or zsh"),
    "export": (
        "pipeline.cli.export",
        "a run's weights for litgpt and transformers, or plain torch: pipeline export runs/STUDY/RUN",
    ),
    "report": ("pipeline.cli.report", "one self-contained HTML page and figures: pipeline report runs/STUDY"),
    "wandb": (
        "pipeline.cli.wandb",
        "finished runs to W&B, and a dashboard of them: pipeline wandb push runs/STUDY",
    ),
}
"""Verb -> the module whose ``main(argv)`` gives the exit code, imported when it is asked for; and a line of help."""

USAGE = f"""usage: pipeline <verb> [flags]

What learning rate at width n, and how sure are we? (width-scaling-pipeline {__version__})

verbs:
{chr(10).join(f"  {name:10} {text}" for name, (_, text) in VERBS.items())}

pipeline <verb> --help lists a verb's flags."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb. 0: done; 1: the work failed; 2: the request was wrong, and one line says what to change."""
    if argv is None:
        _be_a_command()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["help"] and len(arguments) == 2:
        arguments = [arguments[1], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    return _guarded(lambda: _verb(arguments[0], arguments[1:]))


def script(work: Callable[[], int]) -> int:
    """Run a script as a verb is run."""
    _be_a_command()
    return _guarded(work)


def _verb(verb: str, rest: Sequence[str]) -> int:
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(VERBS)}"
        raise RequestError(f"no verb {verb!r}: {hint}")
    code: int = import_module(VERBS[verb][0]).main(rest)
    return code


def _guarded(work: Callable[[], int]) -> int:
    try:
        code = work()
        print(end="", flush=True)  # what cannot be written is to be said here
        return code
    except RequestError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the interpreter's own end has no handler for another
        return _fail("interrupted; the same command continues", 1)
    except OSError as error:
        return _fail(in_a_line(error), 1)
    except Exception as error:
        if os.environ.get("PIPELINE_TRACEBACK"):
            traceback.print_exc()
        return _fail(f"{in_a_line(error)} (PIPELINE_TRACEBACK=1 shows where)", 1)


def _be_a_command() -> None:
    """Only the first Ctrl-C counts: a second would break off what the first one has begun, and that says how it went.
    Whoever stops reading the output (`| head`) does not stop the work."""
    spare_metrics()
    asked: list[bool] = []

    def interrupt(*_: object) -> None:
        if not asked:
            asked.append(True)
            raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and not isinstance(stream.buffer, io.BytesIO):  # not kept in memory
            outlet = io.BufferedWriter(_Outlet(stream.fileno(), "w", closefd=False))
            setattr(sys, name, io.TextIOWrapper(
                outlet, stream.encoding, stream.errors,
                line_buffering=stream.line_buffering, write_through=stream.write_through,
            ))  # fmt: skip


class _Outlet(io.FileIO):
    """The output, which takes everything where nobody reads it any more, and says once where it is full."""

    given_up = False

    def write(self, data: Any) -> int:
        if not self.given_up:
            try:
                return super().write(data)
            except BrokenPipeError:
                self.given_up = True
            except OSError as error:
                self.given_up = True
                raise OSError(error.errno, error.strerror, "the output") from None
        return memoryview(data).nbytes


def _fail(message: str, code: int) -> int:
    """Says why, in one line: what a request or a file may have put into it does not reach the terminal as it is."""
    line = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in message)
    print(f"pipeline: error: {line}", file=sys.stderr)
    return code
