"""A study's grid -> its runs."""

import dataclasses
import itertools

from pipeline.config import RunConfig, SweepConfig
from pipeline.errors import RequestError


def grid(sweep: SweepConfig) -> list[RunConfig]:
    """Every run of widths x params x lrs x seeds, most expensive first so that workers end together.

    Raises `RequestError` if an axis is empty or repeats a value, or if a run of the grid is invalid.
    """
    axes = {
        "width": sweep.widths,
        "param": sweep.params or (sweep.param,),
        "lr": sweep.lrs,
        "seed": sweep.seeds or (sweep.seed,),
    }
    for axis, values in axes.items():
        if not values:
            raise RequestError(
                f"--{axis}s is empty: give the study at least one, for example --{axis}s {_EXAMPLE[axis]}"
            )
        if len(set(values)) < len(values):
            raise RequestError(f"--{axis}s names a value twice: {', '.join(map(str, values))}")
    settings = {f.name: getattr(sweep, f.name) for f in dataclasses.fields(RunConfig)}
    runs = [
        RunConfig(**(settings | dict(zip(axes, point, strict=True)))) for point in itertools.product(*axes.values())
    ]
    return sorted(runs, key=cost, reverse=True)


_EXAMPLE = {"width": "64,128,256", "param": "sp,mup", "lr": "1e-3,4e-3,1.6e-2", "seed": "0,1"}


def cost(run: RunConfig) -> float:
    """Relative compute of a run, for ordering and forecasts: hidden and readout weights times tokens."""
    per_layer = 1 if run.model.kind == "mlp" else 4 + 2 * (run.model.mlp_ratio or 4)
    return (run.model.n_layer * run.width**2 * per_layer + run.d_out * run.width) * run.total_tokens
