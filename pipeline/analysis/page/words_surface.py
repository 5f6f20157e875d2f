"""A fit over two axes, and its predictions, as text for a terminal and as tables and JSON on disk."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.analysis.fit.fitted import Lr
from pipeline.analysis.fit.surface import CellFit, CellPrediction, SurfaceFit, SurfaceGroup
from pipeline.analysis.page import words
from pipeline.analysis.page.tables import to_json, write_text
from pipeline.analysis.page.words import DASH
from pipeline.analysis.page.words_fit import percent
from pipeline.analysis.page.words_predict import of_level, price_of
from pipeline.console import wrapped


def summary(fit: SurfaceFit) -> str:
    """Every group's table of cells, the exponents along both axes, and what qualifies them."""
    names = " and ".join(axis.name for axis in fit.axes)
    lines = [f"{fit.study.name}: {len(fit.study.runs)} runs along {names}, by {fit.measure.name}"]
    lines += [line for note in fit.study.notes for line in wrapped(note, "  - ")]
    for group in fit.groups:
        header = (*(axis.noun for axis in group.axes), "optimal lr (95 %)", "max-stable lr (95 %)", "runs")
        rows = [header, *map(_row, group.fits)]
        lines += ["", words.title(group.key), *words.aligned(rows), ""]
        lines += words.aligned([("along", "exponent of the optimum", "95 % interval"), *_exponents(group)])
        for note in _notes(group):
            lines += wrapped(note, "  - ")
    return words.plain("\n".join(lines))


def _row(one: CellFit) -> tuple[str, ...]:
    best = f"none: {one.left_out.value}" if one.left_out else words.known(one.best)
    return (*map(words.level, one.cell), best, words.known(one.edge), str(one.n_runs))


def _exponents(group: SurfaceGroup) -> list[tuple[str, ...]]:
    if not group.exponents:
        return [(axis.noun, "not estimable", DASH) for axis in group.axes]
    rows: list[tuple[str, ...]] = []
    for axis, found in zip(group.axes, group.exponents, strict=True):
        low, high = found.interval()
        error = words.number(found.standard_deviation)
        interval = f"{words.number(low)} to {words.number(high)}"
        rows.append((axis.noun, f"{words.number(found.median)} \u00b1 {error}", interval))
    return rows


def _notes(group: SurfaceGroup) -> list[str]:
    first, second = (axis.noun for axis in group.axes)
    notes = []
    if group.surface is not None and not group.surface.told_apart:
        notes.append(
            f"{words.capital(first)} and {second} go up together in these runs, so that no exponent along one of them "
            "is known: fit along one."
        )
    if group.surface is not None and group.surface.edge is None:
        notes.append("No cell shows both sides of its edge of stability.")
    at_end = [one.cell for one in group.fits if one.at_edge and one.left_out is None]
    if at_end:
        cells = "; ".join(_at(group, cell) for cell in at_end[:3])
        more = f" and at {len(at_end) - 3} others" if len(at_end) > 3 else ""
        notes.append(f"At {cells}{more} the best learning rate tried is an end of the grid.")
    return notes


def _at(group: SurfaceGroup, cell: Sequence[float]) -> str:
    return ", ".join(words.at(axis, level) for axis, level in zip(group.axes, cell, strict=True))


def optima_table(fit: SurfaceFit) -> pd.DataFrame:
    """One row per cell; the columns of the axes have their names."""
    return pd.DataFrame(
        {
            **group.key,
            **{axis.name: level for axis, level in zip(fit.axes, one.cell, strict=True)},
            **_columns("optimal", one.best),
            **_columns("max_stable", one.edge),
            "at_edge": one.at_edge,
            "n_runs": one.n_runs,
            "left_out": "" if one.left_out is None else one.left_out.value,
        }
        for group in fit.groups
        for one in group.fits
    )


def _columns(name: str, lr: Lr | None) -> dict[str, float]:
    known = lr or Lr(math.nan)
    return {f"{name}_lr": known.value, f"{name}_ci_low": known.low, f"{name}_ci_high": known.high}


def exponent_table(fit: SurfaceFit) -> pd.DataFrame:
    """One row per group and axis, of the optimum; empty where they are not told apart."""
    rows = []
    for group in fit.groups:
        for axis, found in zip(group.axes, group.exponents or (None, None), strict=True):
            low, median, high = (math.nan,) * 3 if found is None else found.quantiles([0.025, 0.5, 0.975])
            error = math.nan if found is None else found.standard_deviation
            numbers = {"exponent": median, "ci_low": low, "ci_high": high, "standard_error": error}
            cells = {"n_cells": len(group.cells), "n_runs": len(group.known.runs)}
            rows.append({**group.key, "axis": axis.name, "quantity": "optimal", **numbers, **cells})
    return pd.DataFrame(rows)


def tables(fit: SurfaceFit) -> dict[str, pd.DataFrame]:
    """By the names of their files."""
    first, second = (axis.name for axis in fit.axes)
    runs = fit.study.runs.rename(columns={"width": first, "second": second})
    return {"runs": runs, "optima": optima_table(fit), "exponents": exponent_table(fit)}


def content(fit: SurfaceFit) -> dict[str, Any]:
    """What fit.json holds."""
    records = {name: table.to_dict("records") for name, table in tables(fit).items()}
    return {"study": fit.study.name, "axes": [axis.name for axis in fit.axes], "notes": fit.study.notes, **records}


def write(fit: SurfaceFit, folder: Path) -> list[Path]:
    """Writes runs.csv, optima.csv, exponents.csv and fit.json, each atomically."""
    paths = [
        write_text(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.10g"))
        for name, table in tables(fit).items()
    ]
    return [*paths, write_text(folder / "fit.json", to_json(content(fit)))]


# ---------------------------------------------------------------------------------------------------------------------
# Predictions


def prediction(fit: SurfaceFit, predictions: Sequence[CellPrediction]) -> str:
    """Plain text for a terminal."""
    lines = [f"{fit.study.name}: learning rates by {fit.measure.name}"]
    lines += [line for note in fit.study.notes for line in wrapped(note, "  - ")]
    for one in predictions:
        where = f"{_at(one.group, one.cell)} ({'trained' if one.trained else 'not trained'})"
        lines += ["", f"{words.title(one.group.key)}, {where}"]
        lines += [line for warning in _warnings(one) for line in wrapped(f"! {warning}", "  ")]
        lines += [
            f"  optimal lr      {of_level(one.optimal, one.level)}",
            f"  max-stable lr   {of_level(one.max_stable, one.level)}",
        ]
        lines += wrapped(f"recommended lr  {_recommended(one)}", "  ")
    return words.plain("\n".join(lines))


def _recommended(one: CellPrediction) -> str:
    price = one.price
    if price is None:
        return "none: the optimum is not known there."
    edge = "the edge is not known there"
    diverges = edge if math.isnan(price.diverges) else f"{percent(price.diverges)} to diverge"
    return f"{words.lr(price.lr)}: {price_of(price, '', one.level)}; {diverges}."


def _warnings(one: CellPrediction) -> list[str]:
    said = [
        f"{words.capital(words.at(axis, level))} is more than four times from the nearest trained, "
        f"{words.level(nearest)}: nothing checks the power law that far out."
        for axis, level in zip(one.group.axes, one.cell, strict=True)
        for far, nearest in one.far
        if far is axis
    ]
    asked = [one.price.lr if one.price else 0.0, one.optimal.value if one.optimal else 0.0]
    if max(asked) > one.tried * (1 + 1e-9):
        said.insert(0, f"Beyond the largest learning rate tried, {words.lr(one.tried)}: nothing was seen there.")
    return said


def as_json(fit: SurfaceFit, predictions: Sequence[CellPrediction]) -> dict[str, Any]:
    """Everything that `prediction` says."""
    return {
        "study": fit.study.name,
        "axes": [axis.name for axis in fit.axes],
        "notes": fit.study.notes,
        "predictions": [
            {
                **one.group.key,
                **{axis.name: level for axis, level in zip(fit.axes, one.cell, strict=True)},
                "level": one.level,
                "optimal": None if one.optimal is None else dataclasses.asdict(one.optimal),
                "max_stable": None if one.max_stable is None else dataclasses.asdict(one.max_stable),
                "recommended": None if one.price is None else one.price.lr,
                "price": None if one.price is None else dataclasses.asdict(one.price),
                "warnings": _warnings(one),
            }
            for one in predictions
        ],
    }
