"""A coordinate check as a study: a few steps at several widths, at learning rates that follow powers of the width."""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from pipeline.config import RunConfig
from pipeline.errors import RequestError
from pipeline.run.directory import RunDir
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.grid import cost, grid, summary, unfinished
from pipeline.sweep.study import Planned

STEPS, SEEDS = 10, (0, 1, 2)
EXAMPLES = 64  # of vectors, on which the check runs: a few of them scatter far

_DEFAULTS = {
    "study": "coordcheck", "steps": STEPS, "warmup_steps": 0, "lr_min_ratio": 1.0, "keep_checkpoint": False, "grid": {},
}  # fmt: skip
_SCHEDULE = {"diagnostics.first", "diagnostics.interval"}
_OF_SWEEP = {
    "lrs": "give one --lr, and --lr_exponent for how it goes with width",
    "grid": "a coordinate check is over widths; give every cell a --study of its own",
    "plan": "a coordinate check makes all its runs",
    "target_half_width": "a coordinate check makes all its runs",
    "target_regret": "a coordinate check makes all its runs",
    "at_width": "a coordinate check makes all its runs",
    "budget": "a coordinate check makes all its runs",
    "launcher": "a coordinate check runs here",
    "profile": "a coordinate check runs here",
}


def defaults(given: Collection[str]) -> dict[str, Any]:
    """Settings over those of a recipe, which would be those of a long run; `given`: what was asked for by name.

    Raises `RequestError` for a setting that a check does without.
    """
    for name in sorted(set(given) & set(_OF_SWEEP)):
        raise RequestError(f"--{name} is for pipeline sweep: {_OF_SWEEP[name]}")
    return _DEFAULTS | ({} if _SCHEDULE & set(given) else {"diagnostics.first": STEPS})


def study(config: SweepConfig, given: Collection[str]) -> SweepConfig:
    """The study that checks `config`, made with the `defaults`. Raises `RequestError`."""
    if len(set(config.widths)) < 2:
        raise RequestError("--widths needs at least two widths to compare, such as --widths 64,128,256,512")
    diagnostics = config.diagnostics
    if not _SCHEDULE & set(given):
        every = diagnostics.interval or (max(1, config.last_step // 20) if config.last_step > STEPS else 0)
        diagnostics = dataclasses.replace(diagnostics, first=min(config.last_step, STEPS), interval=every)
    if config.data.vectors and "diagnostics.probe" not in given:
        diagnostics = dataclasses.replace(diagnostics, probe=EXAMPLES)
    return dataclasses.replace(
        config,
        seeds=config.seeds or ((config.seed,) if "seed" in given else SEEDS),
        lrs=(config.lr,),
        plan="grid",
        launcher="local",
        profile="",
        val_interval=config.last_step,
        checkpoint_interval=config.last_step,
        diagnostics=diagnostics,
    )


def plan(config: SweepConfig, exponents: Sequence[Fraction]) -> dict[RunConfig, list[Fraction]]:
    """Every run, most expensive first, with the exponents that ask for it: at the base width all ask for the same."""
    asked: dict[RunConfig, list[Fraction]] = {}
    for exponent in exponents:
        for width in config.widths:
            lr = config.lr * (width / config.base_width) ** float(exponent)
            for run in grid(dataclasses.replace(config, width=width, widths=(width,), lr=lr, lrs=(lr,))):
                asked.setdefault(run, []).append(exponent)
    if len(set(config.widths)) < len(config.widths):
        raise RequestError(f"--widths names a value twice: {', '.join(map(str, config.widths))}")
    return dict(sorted(asked.items(), key=lambda item: cost(item[0]), reverse=True))


def planned(config: SweepConfig, asked: Mapping[RunConfig, Sequence[Fraction]]) -> Planned:
    """What `plan` asks, for a launcher."""
    return Planned(tuple(asked), preview=_preview(config, asked))


def _preview(config: SweepConfig, asked: Mapping[RunConfig, Sequence[Fraction]]) -> Iterator[str]:
    todo = unfinished(asked)
    yield summary(config, len(asked), len(todo))
    for run, exponents in asked.items():
        rule = " and ".join(f"n^{exponent}" for exponent in exponents)
        yield f"  {run.run_name}  lr {run.lr:.4g} ({rule})  {'to run' if run in todo else 'finished'}"


def require_records(runs: Iterable[RunConfig]) -> None:
    """Finished runs of the same names without coordinates, made by train or sweep, would silently be missing.

    Raises `RequestError`.
    """
    for run in set(runs) - set(unfinished(runs)):
        if not any("effective/" in name for record in RunDir(run.run_dir).records() for name in record):
            raise RequestError(f"{run.run_dir} was finished without a coordinate check: give another --study")
