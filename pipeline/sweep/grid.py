"""The plan of a grid: all runs of a study at once."""

import itertools
from collections.abc import Iterable, Iterator

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
    for run in runs:
        yield f"  {run.run_name}  {'to run' if run in todo else 'finished'}"


def unfinished(runs: Iterable[RunConfig]) -> list[RunConfig]:
    """The runs that have no result yet."""
    return [run for run in runs if RunDir(run.run_dir).result() is None]


def summary(config: SweepConfig, runs: int, todo: int) -> str:
    """A study of so many runs, of which `todo` are not finished, in a line."""
    return f"study {config.study_dir}: {runs} runs, {runs - todo} finished already"


def grid(sweep: SweepConfig) -> list[RunConfig]:
    """Every run of widths x params x lrs x seeds, most expensive first so that workers end together.

    Raises `RequestError` if an axis is empty or repeats a value, or if a run of the grid is invalid.
    """
    axes = {"width": sweep.widths, "param": sweep.all_params, "lr": sweep.lrs, "seed": sweep.all_seeds}
    for axis, values in axes.items():
        if not values:
            raise RequestError(
                f"--{axis}s is empty: give the study at least one, for example --{axis}s {_EXAMPLE[axis]}"
            )
        if len(set(values)) < len(values):
            raise RequestError(f"--{axis}s names a value twice: {', '.join(map(str, values))}")
    runs = [sweep.run(**dict(zip(axes, point, strict=True))) for point in itertools.product(*axes.values())]
    return sorted(runs, key=cost, reverse=True)


_EXAMPLE = {"width": "64,128,256", "param": "sp,mup", "lr": "1e-3,4e-3,1.6e-2", "seed": "0,1"}


def cost(run: RunConfig) -> float:
    """Relative compute of a run, for ordering and forecasts: hidden and readout weights times tokens."""
    per_layer = run.kind.weights_per_layer(run)
    return (run.model.n_layer * run.width**2 * per_layer + run.d_out * run.width) * run.total_tokens
