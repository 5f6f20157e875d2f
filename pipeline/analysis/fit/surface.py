"""Two axes at once: the optimal learning rate as a power law of both, lr = c n^a D^b, whose exponents may wander.

Every pair of levels, a *cell*, has a valley of its own, fitted like a width's (`local`); over the cells lies the
process of `law`, x = mu + sum_a (alpha_a z_a + W_a(z_a)) + xi, in which each axis wanders by itself. numpy only.

Axes: C cells, A the two axes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.analysis.fit import local
from pipeline.analysis.fit.estimate import Estimate, estimate
from pipeline.analysis.fit.fitted import LEVEL, LeftOut, Lr, Quantity, lr_of
from pipeline.analysis.fit.law import EdgePlaces, Pair, Wander, own_place, slope, solve, wandering_by
from pipeline.analysis.fit.optima import Optima
from pipeline.analysis.fit.posterior import Mixture
from pipeline.analysis.fit.predict import FAR
from pipeline.analysis.fit.process import Given
from pipeline.analysis.fit.regret import Price
from pipeline.analysis.fit.study_fit import runs_of
from pipeline.analysis.study.axis import Axis
from pipeline.analysis.study.runs import Floats, Runs
from pipeline.analysis.study.studies import AnyStudy, Compared
from pipeline.errors import RequestError

_MOST = 40  # components of the optima, where each comes with many ways to wander
_APART = 0.1  # of the cells' spread, that is the least which tells the axes apart

Cell = tuple[float, float]


@dataclass(frozen=True)
class Surface:
    """The posterior, given what cells say of their optima and edges."""

    cells_CA: Floats
    optima: Optima
    """Of the cells, in that order."""
    edge: EdgePlaces | None
    edge_cells: Floats
    """Its cells, (rows, A)."""
    wander_A: tuple[Wander, Wander] = (None, None)

    @property
    def told_apart(self) -> bool:
        """Whether the axes do not move together; else no exponent of one of them is known."""
        spread = np.linalg.svd(self._z_CA, compute_uv=False)
        return len(self.cells_CA) > len(spread) and bool(spread[-1] > _APART * spread[0])

    def exponent(self, axis: int) -> Mixture:
        """The average slope along an axis: least squares of the law over the cells, irregularities left out."""
        return slope(self._given, self._z_CA, axis)

    def pair(self, cell: Cell) -> Pair:
        """At a cell that was not fitted. Without an `edge` its second member says nothing."""
        return Pair(self._given.weight_H, *self._given.pair(self._z(np.array(cell))))

    def own(self, place: int) -> Mixture:
        """Of a fitted cell: what it says itself, times what the others say of it."""
        return own_place(self._given, self.optima, place)

    def _z(self, cells: Floats) -> Floats:
        found: Floats = np.log2(cells) - np.log2(self.cells_CA).mean(axis=0)
        return found

    @property
    def _z_CA(self) -> Floats:
        return self._z(self.cells_CA)

    @cached_property
    def _given(self) -> Given:
        o = self.optima
        kept = np.argsort(-o.weight_C, kind="stable")[:_MOST]
        weight = o.weight_C[kept] / o.weight_C[kept].sum()
        edge_z, priors = self._z(self.edge_cells), [wandering_by(weights) for weights in self.wander_A]
        given = solve(weight, o.mean_CW[kept], o.variance_CW[kept], self._z_CA, self.edge, edge_z, priors)
        return replace(given, component_H=kept[given.component_H])


@dataclass(frozen=True)
class CellFit:
    """One cell of a group."""

    cell: Cell
    best: Lr | None
    edge: Lr | None
    at_edge: bool
    """Whether the best learning rate tried is an end of the grid."""
    n_runs: int
    left_out: LeftOut | None


@dataclass(frozen=True)
class SurfaceGroup:
    """One family of curves over two axes."""

    axes: tuple[Axis, Axis]
    key: Mapping[str, str]
    """The columns whose values make the family, and these."""
    cells: tuple[Cell, ...]
    """All of them, by the first axis and then the second."""
    known: Estimate
    """Of the cells, counted from 1 in the place of widths."""
    surface: Surface | None
    """None: no cell has an optimum."""

    @property
    def exponents(self) -> tuple[Mixture, ...]:
        """Along both axes; none: the cells do not tell."""
        if self.surface is None or not self.surface.told_apart:
            return ()
        return tuple(self.surface.exponent(axis) for axis in range(2))

    @property
    def fits(self) -> tuple[CellFit, ...]:
        return tuple(self._fit(place) for place in range(len(self.cells)))

    def _fit(self, place: int) -> CellFit:
        runs, left_out = self.known.runs, local.left_out(self.known, place, place + 1)
        here = runs.x[runs.width == place + 1]
        end = local.at_edge(here, float(self.known.labels.best_x[place]))
        edge = self.lr_at("max_stable", self.cells[place], LEVEL)
        optimum = None if left_out else self.lr_at("optimal", self.cells[place], LEVEL)
        return CellFit(self.cells[place], optimum, edge, end != "no", len(here), left_out)

    def at(self, quantity: Quantity, cell: Cell) -> Mixture | None:
        """log2 of the learning rate at a cell, trained or not; None where nothing is known of it."""
        if quantity == "max_stable" and cell in self.cells:
            return self.known.edge_at(self.cells.index(cell) + 1)
        if self.surface is None:
            return None
        if quantity == "optimal" and cell in self._fitted:
            return self.surface.own(self._fitted.index(cell))
        if not self.surface.told_apart or (quantity == "max_stable" and self.surface.edge is None):
            return None
        return self.surface.pair(cell).of(0 if quantity == "optimal" else 1)

    @property
    def _fitted(self) -> list[Cell]:
        return [] if self.surface is None else [self.cells[int(n) - 1] for n in self.surface.optima.widths]

    def lr_at(self, quantity: Quantity, cell: Cell, level: float) -> Lr | None:
        """With its interval; the optimum never above the edge."""
        posterior = self.at(quantity, cell)
        if posterior is None:
            return None
        edge = self.at("max_stable", cell) if quantity == "optimal" else None
        lr = lr_of(posterior, level)
        return lr if edge is None else lr.below(2.0**edge.median)

    def price(self, cell: Cell, level: float) -> Price | None:
        """The learning rate of least expected regret; None where the optimum is not known."""
        optimum, edge = self.at("optimal", cell), self.at("max_stable", cell)
        if optimum is None or self.surface is None:
            return None
        known: Mixture | Pair = optimum
        if edge is not None:
            known = Pair.independent(optimum, edge) if cell in self.cells else self.surface.pair(cell)
        away = np.sum((np.log2(self.surface.cells_CA) - np.log2(np.array(cell))) ** 2, axis=1)
        return self.known.price_of(known, int(np.argmin(away)), level)


@dataclass(frozen=True)
class SurfaceFit:
    """A table of runs along two axes, and what was fitted to it."""

    study: AnyStudy
    axes: tuple[Axis, Axis]
    measure: Compared
    groups: tuple[SurfaceGroup, ...]


@dataclass(frozen=True)
class CellPrediction:
    """At one cell, for one group. What is not known is None."""

    group: SurfaceGroup
    cell: Cell
    level: float
    optimal: Lr | None
    max_stable: Lr | None
    price: Price | None
    tried: float
    """The largest learning rate of any run."""
    far: tuple[tuple[Axis, float], ...]
    """Axes along which the cell lies beyond `FAR` times the trained levels, and their nearest one."""

    @property
    def trained(self) -> bool:
        return self.cell in self.group.cells


def fit_surfaces(study: AnyStudy, measure: Compared) -> SurfaceFit:
    """Fits every group of curves over both axes. Raises `RequestError`."""
    assert study.second is not None
    axes = (study.axis, study.second)
    completed = study.runs[study.runs["status"] == "completed"]
    if not len(completed) or completed[measure.column].isna().all():
        raise RequestError(f"{study.name}: no completed run has a finite {measure.name}")
    grouped: Any = study.runs.groupby(list(study.group)) if study.group else [((), study.runs)]
    groups = [group_of(axes, dict(zip(study.group, key, strict=True)), runs_of(rows, measure)) for key, rows in grouped]
    return SurfaceFit(study, axes, measure, tuple(groups))


def group_of(axes: tuple[Axis, Axis], key: Mapping[str, str], runs: Runs) -> SurfaceGroup:
    """Fits one family of curves, whose `runs` have a second axis."""
    assert runs.second is not None
    cells_CA, place = np.unique(np.stack([runs.width, runs.second], axis=1), axis=0, return_inverse=True)
    number: Floats = place.ravel() + np.float64(1)
    known = estimate(replace(runs, width=number, second=None), turning=False)
    surface = None
    if known.optima is not None:
        fitted = np.array(known.optima.widths, dtype=np.int64) - 1
        edge = known.edge_places
        rows = np.array([] if edge is None else edge.widths, dtype=np.int64) - 1
        wander = (axes[0].wander, axes[1].wander)
        surface = Surface(cells_CA[fitted], known.optima, edge, cells_CA[rows], wander)
    cells = tuple((float(first), float(second)) for first, second in cells_CA.tolist())
    return SurfaceGroup(axes, key, cells, known, surface)


def predict_cell(group: SurfaceGroup, cell: Cell, level: float) -> CellPrediction:
    """From one fitted group."""
    optimal, max_stable = (group.lr_at(quantity, cell, level) for quantity in ("optimal", "max_stable"))
    far = []
    for axis, asked, levels in zip(group.axes, cell, zip(*group.cells, strict=True), strict=True):
        nearest = min(levels, key=lambda trained: abs(math.log(trained / asked)))
        if not 1 / FAR <= asked / nearest <= FAR:
            far.append((axis, nearest))
    tried = float(group.known.runs.lr.max())
    return CellPrediction(group, cell, level, optimal, max_stable, group.price(cell, level), tried, tuple(far))


def predict_cells(fitted: SurfaceFit, cells: Sequence[Cell], level: float) -> list[CellPrediction]:
    """Of every group at every cell."""
    return [predict_cell(group, cell, level) for cell in cells for group in fitted.groups]
