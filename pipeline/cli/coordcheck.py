"""`pipeline coordcheck`: a few steps at several widths, looked at from inside; or what a study recorded, looked at again."""

import argparse
import dataclasses
import re
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from pipeline.cli.arguments import RequestParser
from pipeline.config import RunConfig, SweepConfig
from pipeline.errors import RequestError
from pipeline.recipes import parse, reject_unknown
from pipeline.run.directory import RunDir
from pipeline.sweep.grid import cost, grid
from pipeline.sweep.launch.lock import plural

STEPS, SEEDS = 10, (0, 1, 2)
EXAMPLES = 64  # of vectors, on which the check runs: a few of them scatter far

# A recipe's own would be those of a long run.
_DEFAULTS = {"study": "coordcheck", "steps": str(STEPS), "warmup_steps": "0", "lr_min_ratio": "1", "keep_checkpoint": "false"}  # fmt: skip
_OF_SWEEP = {
    "lrs": "give one --lr, and --lr_exponent for how it goes with width",
    "plan": "a coordinate check makes all its runs",
    "target_half_width": "a coordinate check makes all its runs",
    "budget": "a coordinate check makes all its runs",
    "launcher": "a coordinate check runs here",
    "profile": "a coordinate check runs here",
}

_HELP = f"""usage: pipeline coordcheck [--config RECIPE] [--KEY VALUE ...]
       pipeline coordcheck STUDY [--lr LR]

Refined coordinate check: trains a few steps at several widths and compares how effective and propagating updates,
activations and gradients of every weight go with width with what theory predicts.

With STUDY, such as runs/coordcheck, it trains nothing and looks at what its runs recorded (--diagnostics.first or
--diagnostics.interval of train and sweep); --lr LR: only at that learning rate (at the base width).

  --widths WIDTHS           Widths, at least two, such as 64,128,256,512.
  --params PARAMS           Parameterizations, such as sp,mup; without: the one of --param.
  --seeds SEEDS             Seeds (default: {",".join(map(str, SEEDS))}); errors come from them and from the widths.
  --lr LR                   Learning rate at the base width.
  --lr_exponent EXPONENTS   At width n: lr * (n / base_width)^exponent, the slope d log(lr) / d log(n), such as -1/2; or
                            several, such as -1/2,-1 (default: 0).
  --steps STEPS             Optimizer steps (default: {STEPS}).
  --workers WORKERS         Worker processes, single-threaded each; 0: one per GPU or, without one, per core.
  --dry_run                 Print what would run, and run nothing.

The learning rate is constant: --warmup_steps 0 --lr_min_ratio 1 unless given. The first {STEPS} steps are looked at, and of longer
runs about 20 more (--diagnostics.first, --diagnostics.interval); --diagnostics.spectra true adds operator norms and alignments.
Runs go into runs/coordcheck (--out, --study); finished ones are not repeated.

Every flag of `pipeline train` may be given beside these:
"""


def main(argv: Sequence[str]) -> int:
    """`pipeline coordcheck`. Raises `RequestError` for a wrong request."""
    if "--help" in argv or "-h" in argv:
        print(_HELP)
        parse("train", ["--help"])
    from pipeline.analysis.page.inside import look

    if argv and not argv[0].startswith("-"):
        arguments = _study_parser().parse_args(list(argv))
        print(look([arguments.study], arguments.lr))
        return 0
    config, exponents, dry_run = request(argv)
    planned = plan(config, exponents)
    runs = list(planned)
    pending = [run for run in runs if RunDir(run.run_dir).result() is None]
    folder = Path(config.out) / config.study
    print(f"study {folder}: {plural(len(runs), 'run')}, {len(runs) - len(pending)} finished already", flush=True)
    if dry_run:
        for run in runs:
            state = "to run" if run in pending else "finished"
            rule = " and ".join(f"n^{exponent}" for exponent in planned[run])
            print(f"  {run.run_name}  lr {run.lr:.4g} ({rule})  {state}")
        return 0
    _require_records(run for run in runs if run not in pending)
    from pipeline.analysis.inside.lr_rules import remember
    from pipeline.sweep.launch.local import run_study

    failures = run_study(config, pending)
    remember(folder, [(config.lr, exponent) for exponent in exponents])
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    if failures:
        print(f"{len(failures)} of {len(runs)} runs failed; the same command tries them again", file=sys.stderr)
        return 1
    print(look([folder], config.lr))
    return 0


def _study_parser() -> argparse.ArgumentParser:
    parser = RequestParser(prog="pipeline coordcheck", add_help=False, allow_abbrev=False)
    parser.add_argument("study", type=Path)
    parser.add_argument("--lr", type=float)
    return parser


def request(argv: Sequence[str]) -> tuple[SweepConfig, tuple[Fraction, ...], bool]:
    """The study, its learning-rate exponents, and whether it is only to be shown."""
    exponents, rest = _take_exponents(argv)
    given = {token.removeprefix("--").partition("=")[0] for token in rest if token.startswith("--")}
    for name in sorted(given & set(_OF_SWEEP)):
        raise RequestError(f"--{name} is for pipeline sweep: {_OF_SWEEP[name]}")
    defaults = [token for name, value in _DEFAULTS.items() for token in (f"--{name}", value)]
    scheduled = given & {"diagnostics.first", "diagnostics.interval"}
    defaults += [] if scheduled else ["--diagnostics.first", str(STEPS)]
    config, dry_run = parse("sweep", [*defaults, *rest])
    if len(set(config.widths)) < 2:
        raise RequestError("--widths needs at least two widths to compare, such as --widths 64,128,256,512")
    seeds = config.seeds or ((config.seed,) if "seed" in given else SEEDS)
    diagnostics = config.diagnostics
    if not scheduled:
        every = diagnostics.interval or (max(1, config.steps // 20) if config.steps > STEPS else 0)
        diagnostics = dataclasses.replace(diagnostics, first=min(config.steps, STEPS), interval=every)
    if config.data.dimensions and "diagnostics.probe" not in given:
        diagnostics = dataclasses.replace(diagnostics, probe=EXAMPLES)
    return (
        dataclasses.replace(
            config,
            seeds=seeds,
            lrs=(config.lr,),
            plan="grid",
            launcher="local",
            profile="",
            val_interval=config.steps,
            checkpoint_interval=config.steps,
            diagnostics=diagnostics,
        ),
        exponents,
        dry_run,
    )


def plan(config: SweepConfig, exponents: Sequence[Fraction]) -> dict[RunConfig, list[Fraction]]:
    """Every run, most expensive first, with the exponents that ask for it: at the base width they all ask for the same."""
    found: dict[RunConfig, list[Fraction]] = {}
    for exponent in exponents:
        for width in config.widths:
            lr = config.lr * (width / config.base_width) ** float(exponent)
            for run in grid(dataclasses.replace(config, width=width, widths=(width,), lr=lr, lrs=(lr,))):
                found.setdefault(run, []).append(exponent)
    if len(set(config.widths)) < len(config.widths):
        raise RequestError(f"--widths names a value twice: {', '.join(map(str, config.widths))}")
    return dict(sorted(found.items(), key=lambda item: cost(item[0]), reverse=True))


def _take_exponents(argv: Sequence[str]) -> tuple[tuple[Fraction, ...], list[str]]:
    """``--lr_exponent``'s values, which may begin with a minus sign, and the other arguments."""
    values, rest = [], []
    tokens = iter(argv)
    for token in tokens:
        name, equals, value = token.partition("=")
        if name != "--lr_exponent":
            if name.startswith("--lr_e"):
                reject_unknown(name.removeprefix("--"), {"lr_exponent"}, name)
            rest.append(token)
            continue
        value = value if equals else next(tokens, "")
        values += list(_exponents(value))
    if len(set(values)) < len(values):
        raise RequestError(f"--lr_exponent names a value twice: {', '.join(map(str, values))}")
    return tuple(values) or (Fraction(0),), rest


def _exponents(text: str) -> Iterator[Fraction]:
    parts = re.sub(r"[\[\]\s]", "", text).split(",")
    for part in parts:
        try:
            yield Fraction(part)
        except (ValueError, ZeroDivisionError):
            raise RequestError(f"--lr_exponent: expected a number or a fraction such as -1/2, got {text!r}") from None


def _require_records(finished: Iterator[RunConfig]) -> None:
    """Runs of the same name without coordinates, made by train or sweep, would silently be missing."""
    for run in finished:
        if not any("effective/" in name for record in RunDir(run.run_dir).records() for name in record):
            raise RequestError(f"{run.run_dir} was finished without a coordinate check: give another --study")
