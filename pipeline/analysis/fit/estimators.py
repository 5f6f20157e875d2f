"""The estimators: what makes optimum, edge and exponents out of a family's runs. One entry each; the first is the
default."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.analysis.fit import local, published
from pipeline.analysis.fit.fitted import Fitted
from pipeline.analysis.study.grid import Grid
from pipeline.errors import RequestError


@dataclass(frozen=True)
class Estimator:
    """How a family of curves is fitted, and how the result reads."""

    name: str
    help: str
    fit: Callable[[Grid], Fitted]
    title: str = ""
    """How people call it, with its article; empty: by its name."""
    max_stable: bool = True
    """Whether its edge is the largest stable learning rate by trajectory; else it is the minimal unstable one by the
    published criterion."""

    @property
    def called(self) -> str:
        return self.title or f"the estimator {self.name}"

    @property
    def edge_name(self) -> str:
        return "max-stable" if self.max_stable else "minimal unstable"


ESTIMATORS: dict[str, Estimator] = {
    entry.name: entry
    for entry in (
        Estimator("local", "each width's optimum from its own neighbourhood, interval-censored edges", local.fit),
        Estimator(
            "paper",
            "grid values and a line",
            published.fit,
            title="the published practice",
            max_stable=False,
        ),
    )
}
DEFAULT = next(iter(ESTIMATORS))


def get(name: str) -> Estimator:
    """Raises `RequestError` for an unknown one."""
    if name not in ESTIMATORS:
        raise RequestError(f"no estimator {name!r}: choose one of {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name]
