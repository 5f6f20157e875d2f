"""`pipeline coordcheck`: a few steps at several widths, seen from inside; or what a study recorded, looked at again."""

import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from pipeline.cli.arguments import Flags, RequestParser, taken
from pipeline.errors import RequestError
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.coordinate_check import SEEDS, STEPS, defaults, plan, planned, require_records, study

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
  --json                    Print the rows of coordcheck_groups.csv as JSON.
  --dry_run                 Print what would run, and run nothing.

The learning rate is constant: --warmup_steps 0 --lr_min_ratio 1 unless given. The first {STEPS} steps are looked at, \
and of longer
runs about 20 more (--diagnostics.first, --diagnostics.interval); --diagnostics.spectra true adds operator norms and \
alignments.
Runs go into runs/coordcheck (--out, --study); finished ones are not repeated.

Every flag of `pipeline train`, such as --optimizer, may be given beside these (pipeline train --help)."""


def main(argv: Sequence[str]) -> int:
    """`pipeline coordcheck`. Raises `RequestError` for a wrong request."""
    if "--help" in argv or "-h" in argv:
        print(_HELP)
        raise SystemExit(0)
    as_json, argv = taken(argv, "--json")
    from pipeline.analysis.page.inside import look

    if argv and not argv[0].startswith("-"):
        parser = RequestParser(prog="pipeline coordcheck", add_help=False, allow_abbrev=False)
        parser.add_argument("study", type=Path)
        parser.add_argument("--lr", type=float)
        arguments = parser.parse_args(argv)
        print(look([arguments.study], arguments.lr, as_json=as_json))
        return 0
    config, exponents, dry_run = request(argv)
    runs = planned(config, plan(config, exponents))
    from pipeline.analysis.inside.lr_rules import remember
    from pipeline.sweep.launch import local

    local.check(config)
    if dry_run:
        return local.dry_run(config, runs)
    require_records(runs.runs)
    with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):  # where what goes on is said
        code = local.submit(config, runs)
    remember(config.study_dir, [(config.lr, exponent) for exponent in exponents])
    if not code:
        print(look([config.study_dir], config.lr, as_json=as_json))
    return code


def request(argv: Sequence[str]) -> tuple[SweepConfig, tuple[Fraction, ...], bool]:
    """The study, its learning-rate exponents, and whether it is only to be shown."""
    flags = Flags(SweepConfig, argv, own=["lr_exponent"])
    exponents = [exponent for text in flags.own["lr_exponent"] for exponent in _exponents(text)] or [Fraction(0)]
    if len(set(exponents)) < len(exponents):
        raise RequestError(f"--lr_exponent names a value twice: {', '.join(map(str, exponents))}")
    config = flags.config(over=defaults([*flags.settings, *(["grid"] if flags.grid else [])]))
    return study(config, flags.settings), tuple(exponents), flags.dry_run


def _exponents(text: str) -> Iterator[Fraction]:
    parts = re.sub(r"[\[\]\s]", "", text).split(",")
    for part in parts:
        try:
            yield Fraction(part)
        except (ValueError, ZeroDivisionError):
            raise RequestError(f"--lr_exponent: expected a number or a fraction such as -1/2, got {text!r}") from None
