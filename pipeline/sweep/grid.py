"""The plan of a grid: all runs of a study at once."""

import itertools
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any

from pipeline.config import RunConfig
from pipeline.errors import RequestError
from pipeline.run.directory import RunDir
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.study import Planned


def check(config: SweepConfig) -> None:
    """Raises `RequestError` for what a grid has no use for."""
    if config.budget:
        raise RequestError("--budget is for --plan adaptive: a grid makes all its runs")


def plan(config: SweepConfig) -> Planned:
    """The only round. Raises `RequestError`."""
    runs = tuple(grid(config))
    return Planned(runs, preview=_preview(config, runs))


def record(config: SweepConfig, planned: Planned) -> None:
    """Nothing: the settings say it all."""


def _preview(config: SweepConfig, runs: tuple[RunConfig, ...]) -> Iterator[str]:
    todo = unfinished(runs)
    yield summary(config, len(runs), len(todo))
    for run in runs if len(runs) <= LISTED else ():
        where = cell(config, run)
        yield f"  {run.run_name}{where and f'  {where}'}  {'to run' if run in todo else 'finished'}"


def unfinished(runs: Iterable[RunConfig]) -> list[RunConfig]:
    """The runs that have no result yet."""
    return [run for run in runs if RunDir(run.run_dir).result() is None]


def summary(config: SweepConfig, runs: int, todo: int) -> str:
    """A study of so many runs, of which `todo` are not finished, in a line."""
    return f"study {config.study_dir}: {runs} runs, {runs - todo} finished already"


def grid(sweep: SweepConfig) -> list[RunConfig]:
    """Every run of widths x params x lrs x seeds x the further axes, most expensive first so that workers end together.
    Points that differ in nothing that counts, such as the betas under SGD, are one run.

    Raises `RequestError` if an axis is empty, repeats a value or changes nothing, or if a run of the grid is invalid.
    """
    axes = {"width": sweep.widths, "param": sweep.all_params, "lr": sweep.lrs, "seed": sweep.all_seeds, **sweep.grid}
    for axis, values in axes.items():
        flag, example = (f"grid.{axis}", "V,W") if axis in sweep.grid else (f"{axis}s", _EXAMPLE[axis])
        if not values:
            raise RequestError(f"--{flag} is empty: give the study at least one, for example --{flag} {example}")
        if len(set(map(repr, values))) < len(values):
            raise RequestError(f"--{flag} names a value twice: {', '.join(map(_said, values))}")
    points = list(itertools.product(*axes.values()))
    runs = [_run(sweep, dict(zip(axes, point, strict=True))) for point in points]
    _require_axes_that_count(sweep, list(axes), points, runs)
    first: dict[str, RunConfig] = {}
    for run in runs:
        first.setdefault(run.run_name, run)
    return sorted(first.values(), key=cost, reverse=True)


def _run(sweep: SweepConfig, point: dict[str, Any]) -> RunConfig:
    try:
        return sweep.run(**point)
    except RequestError as error:
        if not sweep.grid:
            raise
        raise RequestError(
            f"{error} (at {', '.join(f'{key} {_said(value)}' for key, value in point.items())})"
        ) from None


def _require_axes_that_count(
    sweep: SweepConfig, axes: list[str], points: list[tuple[Any, ...]], runs: list[RunConfig]
) -> None:
    for place in (axes.index(key) for key, values in sweep.grid.items() if len(values) > 1):
        names: dict[str, set[str]] = {}
        for point, run in zip(points, runs, strict=True):
            names.setdefault(repr(point[:place] + point[place + 1 :]), set()).add(run.run_name)
        if all(len(alike) == 1 for alike in names.values()):
            raise RequestError(f"--grid.{axes[place]} changes nothing in these runs: leave it out")


def cell(sweep: SweepConfig, run: RunConfig) -> str:
    """Where the run stands on the study's further axes: ``model.n_layer 4  steps 200``; empty without any."""
    return "  ".join(f"{key} {_said(attrgetter(key)(run))}" for key in sweep.grid)


def _said(value: Any) -> str:
    """A source of data by its name."""
    return str(getattr(value, "name", value))


LISTED = 20
"""Runs that are few enough to be named one by one."""
_EXAMPLE = {"width": "64,128,256", "param": "sp,mup", "lr": "1e-3,4e-3,1.6e-2", "seed": "0,1"}


def cost(run: RunConfig) -> float:
    """Relative compute of a run, for ordering and forecasts: hidden and readout weights times tokens."""
    per_layer = run.kind.weights_per_layer(run)
    return (run.model.n_layer * run.width**2 * per_layer + run.d_out * run.width) * run.total_tokens
