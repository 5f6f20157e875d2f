"""What a command's processes need not import."""

import importlib
import sys
from importlib import metadata
from types import ModuleType
from typing import Any

_METRICS = "torchmetrics"


def spare_metrics() -> None:
    """Let Lightning, which only asks whether something is one of torchmetrics' metrics, be imported without it:
    torchmetrics brings transformers, scipy, pandas, scikit-learn and matplotlib along, half of the CPU time of starting
    to train. It is imported as soon as anybody wants anything else of it."""
    if _METRICS in sys.modules:
        return
    try:
        version = metadata.version(_METRICS)
    except metadata.PackageNotFoundError:  # then Lightning says so
        return
    stand_in = _StandIn(_METRICS)
    stand_in.__version__ = version
    sys.modules[_METRICS] = stand_in


class _StandIn(ModuleType):
    """`Metric` and `MetricCollection`, of which nothing is an instance; torchmetrics' own for any other name."""

    __version__: str

    class Metric:
        """As isinstance and annotations name it."""

    class MetricCollection:
        """As isinstance and annotations name it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        if sys.modules.get(_METRICS) is self:
            del sys.modules[_METRICS]
        return getattr(importlib.import_module(_METRICS), name)
