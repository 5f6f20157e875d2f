"""The published practice (paper, D.4) as an estimator: grid values and a straight line through them, without an error
of their own."""

from pipeline.analysis.fit.exponent import LrLaw, fit_exponent
from pipeline.analysis.fit.fitted import Fitted, FittedWidth, Lr, Quantity
from pipeline.analysis.study.grid import Grid, GridWidth


def fit(grid: Grid) -> Fitted:
    """The optimum's exponent from the best learning rates of the grid, those at its ends included, and the edge's from
    the minimal unstable ones, without the widths where none was seen."""
    optima = [w for w in grid.widths if w.optimum.index is not None]
    edges = [w for w in grid.widths if not w.edge.censored]
    laws: dict[Quantity, LrLaw] = {
        "optimal": fit_exponent([w.width for w in optima], [w.optimum.lr for w in optima]),
        "max_stable": fit_exponent([w.width for w in edges], [w.edge.min_unstable_lr for w in edges]),
    }

    def lr_at(quantity: Quantity, width: float, level: float) -> Lr | None:
        return Lr(laws[quantity].lr_at(width)) if laws[quantity].estimable else None

    return Fitted(
        widths=tuple(map(_width, grid.widths)),
        laws=laws,
        lr_at=lr_at,
        intervals=False,
    )


def _width(w: GridWidth) -> FittedWidth:
    return FittedWidth(
        best=None if w.optimum.index is None else Lr(w.optimum.lr),
        best_loss=w.optimum.loss,
        edge=None if w.edge.censored else Lr(w.edge.min_unstable_lr),
        at_edge=w.optimum.at_edge,
    )
