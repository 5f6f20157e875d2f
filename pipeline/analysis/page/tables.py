"""A fit as tables and JSON on disk: runs.csv, optima.csv, exponents.csv, fit.json."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.fit.evidence import agreement, clean_exponents
from pipeline.analysis.fit.fitted import QUANTITIES, Lr, Quantity
from pipeline.analysis.fit.study_fit import GroupFit, StudyFit, WidthFit
from pipeline.analysis.page.phrases import phrases
from pipeline.analysis.page.words_fit import left_out
from pipeline.analysis.study.table import GROUP
from pipeline.errors import RequestError
from pipeline.files import write_atomic


def optima_table(fit: StudyFit) -> pd.DataFrame:
    """One row per width, or level of another axis: optimum and edge.

    As seen on the grid: at_edge, last_stable_lr, min_unstable_lr (both empty: every learning rate was unstable; the
    latter alone: none was, up to last_stable_lr), grid_lr. By the estimator: optimal_lr, max_stable_lr and their 95 %
    intervals; as published, optimal_lr is the grid's and max_stable_lr is left to the bracket.
    """
    return pd.DataFrame(_optima_row(group, w) for group in fit.groups for w in group.widths)


def _optima_row(group: GroupFit, w: WidthFit) -> dict[str, Any]:
    best = w.best or Lr(math.nan)
    largest = (w.largest if group.estimator.max_stable else None) or Lr(math.nan)
    return {
        **group.head,
        "width": w.width,
        "optimal_lr": best.value,
        "optimal_loss": w.optimum.loss,
        "at_edge": w.optimum.at_edge,
        "last_stable_lr": w.edge.last_stable_lr,
        "min_unstable_lr": w.edge.min_unstable_lr,
        "n_lrs": len(w.curve.lrs),
        "n_seeds": w.grid.n_seeds,
        "optimal_ci_low": best.low,
        "optimal_ci_high": best.high,
        "max_stable_lr": largest.value,
        "max_stable_ci_low": largest.low,
        "max_stable_ci_high": largest.high,
        "grid_lr": w.optimum.lr,
        "left_out": "" if w.fitted.left_out is None else left_out(group, w.fitted.left_out),
    }


def exponent_table(fit: StudyFit) -> pd.DataFrame:
    """Two rows per group, optimal and max_stable; n_runs counts the runs of the widths that entered.

    Columns of the judgement, empty without a posterior: the probabilities p_* that a clean exponent is the nearest one,
    nearest (the one with at least 95 %, or undecided), compatible (those in the 95 % interval), one_power_law (yes, no
    or unchecked), edge_limited (the optimum's exponent is the edge's), theory (the predicted exponent) and
    theory_inside. Behind them, columns of the key of a table's groups.
    """
    return pd.DataFrame(_exponent_row(group, quantity) for group in fit.groups for quantity in QUANTITIES)


def _exponent_row(group: GroupFit, quantity: Quantity) -> dict[str, Any]:
    law = group.fitted.laws[quantity]
    return {
        **{name: getattr(group, name) for name in GROUP},
        "quantity": quantity,
        "estimator": group.estimator.name,
        "exponent": law.exponent,
        "ci_low": law.ci_low,
        "ci_high": law.ci_high,
        "n_widths": law.n_widths,
        "n_runs": sum(w.grid.n_runs for w in group.widths if w.width in law.widths),
        "standard_error": law.standard_error,
        **_judgement(group, quantity),
        **{name: value for name, value in group.key.items() if name not in GROUP},
    }


_ONE_POWER_LAW = {"one power law": "yes", "drift": "no", "unchecked": "unchecked"}


def _judgement(group: GroupFit, quantity: Quantity) -> dict[str, Any]:
    posterior = group.fitted.posteriors.get(quantity)
    claim = group.predicted.get(quantity)
    row: dict[str, Any] = {
        "p_minus_1": math.nan,
        "p_minus_half": math.nan,
        "p_0": math.nan,
        "nearest": "",
        "compatible": "",
        "one_power_law": "",
        "edge_limited": "",
        "theory": "" if claim is None else str(claim.exponent),
        "theory_inside": "",
    }
    if posterior is None:
        return row
    clean = clean_exponents(posterior)
    check = group.fitted.checks.get(quantity)
    row |= {
        **{name: c.p_nearest for name, c in zip(("p_minus_1", "p_minus_half", "p_0"), clean, strict=True)},
        "nearest": next((f"{c.value:g}" for c in clean if c.nearest), "undecided"),
        "compatible": " ".join(f"{c.value:g}" for c in clean if c.compatible),
        "one_power_law": "" if check is None else _ONE_POWER_LAW[check.verdict],
        "edge_limited": "yes" if group.fitted.edge_limited else "no",
    }
    if claim is not None:
        row["theory_inside"] = "yes" if agreement(posterior, float(claim.exponent)).inside else "no"
    return row


def write(fit: StudyFit, folder: Path | None = None) -> list[Path]:
    """Writes runs.csv, optima.csv, exponents.csv and fit.json into the folder, by default the study's, each
    atomically."""
    folder = fit.study.folder if folder is None else folder
    tables = {"runs": fit.study.runs, "optima": optima_table(fit), "exponents": exponent_table(fit)}
    paths = [
        write_text(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.10g"))
        for name, table in tables.items()
    ]
    return [*paths, write_text(folder / "fit.json", to_json(content(fit)))]


def write_text(path: Path, text: str) -> Path:
    """Replaces `path` by `text` and returns it. Raises `RequestError` where it cannot be written."""
    try:
        write_atomic(path, text)
    except OSError as error:
        raise RequestError(f"{path}: cannot write ({error.strerror})") from None
    return path


def make_folder(path: Path) -> None:
    """Raises `RequestError` where that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{path}: cannot write there ({error.strerror})") from None


def to_json(content: Any) -> str:
    """Strict JSON, which knows neither nan nor inf: they become null."""
    return json.dumps(_without_nan(content), indent=2, allow_nan=False) + "\n"


def content(fit: StudyFit) -> dict[str, Any]:
    """What fit.json holds."""
    study = fit.study
    return {
        "study": study.name,
        "metric": fit.measure.metric,
        "value": fit.measure.value,
        "estimator": fit.estimator.name,
        "axis": study.axis.name,
        "notes": study.notes,
        "n_runs": len(study.runs),
        "n_unfinished": study.n_unfinished,
        "n_failed": study.n_failed,
        "left_out": study.left_out,
        "recipe": dict(study.recipe),
        "exponents": exponent_table(fit).to_dict("records"),
        "optima": optima_table(fit).to_dict("records"),
        "groups": [_group(group) for group in fit.groups],
        "runs": study.runs.to_dict("records"),
    }


def _group(group: GroupFit) -> dict[str, Any]:
    curves = [
        {
            "width": w.width,
            **{field: values.tolist() for field, values in dataclasses.asdict(w.curve).items()},
            "unstable": w.unstable.tolist(),
        }
        for w in group.widths
    ]
    checks = {
        quantity: {
            "verdict": found.verdict,
            "local": [
                {
                    "widths": [local.narrow, local.wide],
                    "exponent": local.exponent.median,
                    "interval": local.exponent.interval(),
                }
                for local in found.local
            ],
            "left_out": [dataclasses.asdict(held) for held in found.held_out],
        }
        for quantity, found in group.fitted.checks.items()
    }
    say = phrases(group.estimator)
    transfer = None if group.fitted.transfer is None else dataclasses.asdict(group.fitted.transfer)
    said = {"answer": say.answer(group), "notes": say.notes(group)}
    return {**group.head, **said, "transfer": transfer, "checks": checks, "curves": curves}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
