"""What a command's processes need not import."""

import importlib
import sys
from importlib import metadata
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_METRICS = "torchmetrics"


def spare_metrics() -> None:
    """Let Lightning, which only asks whether something is one of torchmetrics' metrics, be imported without it:
    torchmetrics brings transformers, scipy, pandas, scikit-learn and matplotlib along, half of the CPU time of starting
    to train. It is imported as soon as anybody wants anything else of it."""
    if _METRICS in sys.modules:
        return
    real = find_spec(_METRICS)
    if real is None or real.submodule_search_locations is None:  # then Lightning says so
        return
    stand_in = _StandIn(_METRICS)
    stand_in.__version__ = metadata.version(_METRICS)
    stand_in.__path__ = list(real.submodule_search_locations)
    sys.modules[_METRICS] = stand_in


class _StandIn(ModuleType):
    """`Metric` and `MetricCollection`, of which nothing is an instance; torchmetrics' own for any other name."""

    __version__: str
    __path__: list[str]

    class Metric:
        """As isinstance and annotations name it."""

    class MetricCollection:
        """As isinstance and annotations name it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(_METRICS) is self:
            del sys.modules[_METRICS]
        self.__dict__.update(vars(importlib.import_module(_METRICS)))  # for who has this module by the hand already
        return getattr(sys.modules[_METRICS], name)
