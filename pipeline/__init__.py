"""What learning rate at width n, and how sure are we? Train, sweep, fit and report over model widths.

The library (README, "In Python"). Every name is imported when it is first used: `import pipeline` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.version import __version__

if TYPE_CHECKING:
    from pipeline import figures
    from pipeline.config import DataConfig, DiagnosticsConfig, ModelConfig, MultConfig, RunConfig, WandbConfig
    from pipeline.diagnostics.coordinate_check import CoordinateCheck
    from pipeline.errors import RequestError
    from pipeline.library import fit, load_runs, predict
    from pipeline.optim import apply_parameterization
    from pipeline.training.trainer import train

__all__ = [
    "CoordinateCheck",
    "DataConfig",
    "DiagnosticsConfig",
    "ModelConfig",
    "MultConfig",
    "RequestError",
    "RunConfig",
    "WandbConfig",
    "__version__",
    "apply_parameterization",
    "figures",
    "fit",
    "load_runs",
    "predict",
    "train",
]

_HOMES = {
    "pipeline.config": ("DataConfig", "DiagnosticsConfig", "ModelConfig", "MultConfig", "RunConfig", "WandbConfig"),
    "pipeline.diagnostics.coordinate_check": ("CoordinateCheck",),
    "pipeline.errors": ("RequestError",),
    "pipeline.library": ("fit", "load_runs", "predict"),
    "pipeline.optim": ("apply_parameterization",),
    "pipeline.training.trainer": ("train",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "figures":
        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
