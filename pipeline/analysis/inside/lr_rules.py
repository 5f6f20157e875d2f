"""Which runs of a study make a ladder: those of one learning-rate rule, at two widths or more."""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.inside.check import Ladder, Records
from pipeline.analysis.study.cells import in_order
from pipeline.analysis.study.load import Study
from pipeline.analysis.study.table import GROUP
from pipeline.entries.kinds import Place
from pipeline.errors import RequestError
from pipeline.files import write_atomic
from pipeline.parameterization import rules
from pipeline.run.directory import RunDir

REQUESTS = "coordcheck.json"
"""Beside the runs: which learning-rate exponents `pipeline coordcheck` was asked for."""

_MARKS = (b'"effective/', b'"sharpness/')


def recorded(study: Study) -> dict[str, Records]:
    """The records of the runs that looked inside: coordinates, or sharpness. Raises `RequestError` for damaged
    files."""
    found = {}
    for folder in study.dirs:
        for name in study.runs["run"]:
            run = RunDir(folder / name)
            if run.metrics_file.is_file() and any(mark in run.metrics_file.read_bytes() for mark in _MARKS):
                found[name] = run.records()
    return found


def ladders(study: Study, records: Mapping[str, Records]) -> list[Ladder]:
    """The ladders among the runs of `recorded`; those with fewer than two widths are left out.

    What `pipeline coordcheck` was asked for is read from the study folder. In other studies, runs of the same learning
    rate make a ladder (exponent 0), and where every width has one learning rate, those do.
    """
    runs = study.runs[study.runs["run"].isin(records)]
    asked = [request for folder in study.dirs for request in requests(folder)]
    found: list[Ladder] = []
    for key, rows in runs.groupby(list(study.group), sort=False):
        base = int(rows["base_width"].iloc[0])
        for lr, exponent in _rules(rows, asked, base):
            at = rows["width"].map(lambda n, lr=lr, e=exponent, base=base: lr * (n / base) ** float(e))
            own = rows[np.isclose(rows["lr"], at, rtol=1e-6, atol=0)]
            clean = Fraction(exponent).limit_denominator(12)
            rule = clean if abs(float(clean) - float(exponent)) < 1e-6 else None
            found += ladder(key, own, lr, rule, study, records)
    order = list(rules.TABLE)
    return sorted(
        found,
        key=lambda f: (
            *(order.index(f.param), f.optimizer, f.loss),
            *map(in_order, f.cell.values()),
            *(-(f.lr_exponent or 0), f.lr),
        ),
    )


def ladder(
    key: Any,
    rows: pd.DataFrame,
    lr: float,
    lr_exponent: Fraction | None,
    study: Study,
    records: Mapping[str, Records],
    name: str = "",
) -> Iterator[Ladder]:
    """A ladder of given runs (rows of the study's table), if they have two widths."""
    widths = tuple(sorted(rows["width"].unique().tolist()))
    if len(widths) < 2:
        return
    param, optimizer, loss, *_ = key
    by_point = {(int(row["width"]), int(row["seed"])): row for row in rows.to_dict("records")}
    bad = Counter(width for (width, _), row in by_point.items() if row["status"] == "diverged")
    run = study.directory(rows["run"].iloc[0])
    yield Ladder(
        param,
        optimizer,
        loss,
        lr,
        lr_exponent,
        run.config(),
        widths,
        tuple(sorted(rows["seed"].unique().tolist())),
        {point: records[row["run"]] for point, row in by_point.items() if row["run"] in records},
        dict(bad),
        name,
        _places(run),
        dict(zip(study.cells, key[len(GROUP) :], strict=True)),
    )


def _places(run: RunDir) -> dict[str, Place]:
    fields = [f.name for f in dataclasses.fields(Place)]
    try:
        return {weight: Place(**{f: entry[f] for f in fields}) for weight, entry in run.weights().items()}
    except KeyError as error:
        raise RequestError(
            f"{run.weights_file} has no {error}: delete it, and the names of weights are read again"
        ) from None


Rule = tuple[float, Fraction | float]


def _rules(rows: pd.DataFrame, asked: Sequence[Rule], base_width: int) -> list[Rule]:
    """Learning rates at the base width with their exponents."""
    held = [rule for rule in asked if _holds(rule, rows, base_width)]
    if held:
        return list(dict.fromkeys(held))
    lrs = rows["lr"].drop_duplicates().tolist()
    constant: list[Rule] = [(lr, Fraction(0)) for lr in lrs if rows["width"][rows["lr"] == lr].nunique() > 1]
    one_each = rows.groupby("width")["lr"].agg(["nunique", "first"])
    if constant or len(one_each) < 2 or (one_each["nunique"] > 1).any():
        return constant
    x, y = np.log(one_each.index.to_numpy() / base_width), np.log(one_each["first"].to_numpy(dtype=np.float64))
    slope, at_base = np.polyfit(x, y, 1)
    return [(math.exp(at_base), float(slope))] if np.allclose(at_base + slope * x, y, atol=1e-6) else []


def _holds(rule: Rule, rows: pd.DataFrame, base_width: int) -> bool:
    """Whether runs of two widths follow the rule."""
    lr, exponent = rule
    expected = lr * (rows["width"] / base_width) ** float(exponent)
    return int(rows["width"][np.isclose(rows["lr"], expected, rtol=1e-6, atol=0)].nunique()) > 1


def requests(folder: Path) -> list[tuple[float, Fraction]]:
    """(learning rate at the base width, exponent) of every coordinate check that was asked of a study."""
    try:
        content = json.loads((folder / REQUESTS).read_text())
        return [(float(entry["lr"]), Fraction(entry["lr_exponent"])) for entry in content]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        raise RequestError(f"{folder / REQUESTS} is damaged: delete it, and run the coordinate check again") from None


def remember(folder: Path, asked: Sequence[tuple[float, Fraction]]) -> None:
    """Add to `requests`."""
    every = dict.fromkeys([*requests(folder), *asked])
    content = [{"lr": lr, "lr_exponent": str(exponent)} for lr, exponent in every]
    write_atomic(folder / REQUESTS, json.dumps(content, indent=2) + "\n")
