"""`pipeline fit`: optimum, stability edge and their width exponents of a study, on the terminal and as CSV and JSON."""

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.analysis import words
from pipeline.analysis.exponents import PAPER, Exponent, fit_exponent
from pipeline.analysis.optimum import COLUMN, Curve, Metric, Optimum, grid_optimum, seed_mean_curve
from pipeline.analysis.results import GROUP, Study, load_study
from pipeline.analysis.stability import Edge, stability_edge, unstable_lrs
from pipeline.config import RequestError
from pipeline.files import write_atomic
from pipeline.parameterization import rules
from pipeline.validation import RequestParser


@dataclass(frozen=True)
class WidthFit:
    """One width of a group: its curve, the optimum and the stability edge on it."""

    width: int
    curve: Curve
    unstable: NDArray[np.bool_]
    """Per learning rate of the curve."""
    optimum: Optimum
    edge: Edge
    n_runs: int

    @property
    def n_seeds(self) -> int:
        """Most seeds that any learning rate has."""
        return int(self.curve.n_seeds.max())


@dataclass(frozen=True)
class GroupFit:
    """The widths trained under one parameterization, optimizer and loss, narrowest first, and the exponents over them.

    `optimal` is fitted to the optima, those at the grid's edge included, as published; `max_stable` to the minimal
    unstable learning rates, without the widths where none was seen.
    """

    param: str
    optimizer: str
    loss: str
    widths: tuple[WidthFit, ...]
    optimal: Exponent
    max_stable: Exponent

    @property
    def lr_ratio(self) -> float:
        """Typical ratio of neighbouring learning rates of the grid; nan with one learning rate per width."""
        ratios = np.concatenate([w.curve.lrs[1:] / w.curve.lrs[:-1] for w in self.widths])
        return float(np.median(ratios)) if len(ratios) else math.nan

    @property
    def n_seeds(self) -> int:
        return max(w.n_seeds for w in self.widths)


@dataclass(frozen=True)
class StudyFit:
    """A study and what was fitted to it, by one metric: train or val, the final training or validation loss (`words.unit`)."""

    study: Study
    metric: Metric
    groups: tuple[GroupFit, ...]


def fit(study_dirs: Sequence[Path], metric: Metric = "train") -> StudyFit:
    """Loads the studies as one and fits every group of curves. Raises `RequestError` (see `results.load_study`)."""
    study = load_study(study_dirs)
    completed = study.runs[study.runs["status"] == "completed"]
    if len(completed) and completed[COLUMN[metric]].isna().all():
        raise RequestError(
            f"{study.name}: no completed run has a finite {words.METRIC_NAME[metric]}; try another --metric"
        )
    order = {name: place for place, name in enumerate(rules.TABLE)}
    dimensions = study.config.data.dimensions
    n_classes = dimensions[1] if dimensions else None
    groups = [_fit_group(key, rows, metric, n_classes) for key, rows in study.runs.groupby(GROUP)]
    groups.sort(key=lambda group: (order[group.param], group.optimizer, group.loss))
    return StudyFit(study, metric, tuple(groups))


def _fit_group(key: Any, rows: pd.DataFrame, metric: Metric, n_classes: int | None) -> GroupFit:
    widths = [_fit_width(int(str(width)), runs, metric, n_classes) for width, runs in rows.groupby("width")]
    optima = [w for w in widths if w.optimum.index is not None]
    edges = [w for w in widths if not w.edge.censored]
    param, optimizer, loss = key
    return GroupFit(
        param,
        optimizer,
        loss,
        widths=tuple(widths),
        optimal=fit_exponent([w.width for w in optima], [w.optimum.lr for w in optima]),
        max_stable=fit_exponent([w.width for w in edges], [w.edge.min_unstable_lr for w in edges]),
    )


def _fit_width(width: int, runs: pd.DataFrame, metric: Metric, n_classes: int | None) -> WidthFit:
    curve = seed_mean_curve(runs, metric)
    optimum = grid_optimum(curve)
    loss = str(runs["loss"].iloc[0])
    unstable = unstable_lrs(
        curve.losses, optimum.index, left=curve.left, loss=loss, accuracies=curve.accuracies, n_classes=n_classes
    )
    return WidthFit(width, curve, unstable, optimum, stability_edge(curve.lrs, unstable, optimum.index), len(runs))


def optima_table(fit: StudyFit) -> pd.DataFrame:
    """One row per width: optimum and edge. Empty last_stable_lr and min_unstable_lr: every learning rate was unstable;
    empty min_unstable_lr alone: none was, up to last_stable_lr."""
    return pd.DataFrame(
        {
            "param": group.param,
            "optimizer": group.optimizer,
            "loss": group.loss,
            "width": w.width,
            "optimal_lr": w.optimum.lr,
            "optimal_loss": w.optimum.loss,
            "at_edge": w.optimum.at_edge,
            "last_stable_lr": w.edge.last_stable_lr,
            "min_unstable_lr": w.edge.min_unstable_lr,
            "n_lrs": len(w.curve.lrs),
            "n_seeds": w.n_seeds,
        }
        for group in fit.groups
        for w in group.widths
    )


def exponent_table(fit: StudyFit) -> pd.DataFrame:
    """Two rows per group, optimal and max_stable; n_runs counts the runs of the widths that entered."""
    rows = []
    for group in fit.groups:
        with_optimum = [w.n_runs for w in group.widths if w.optimum.index is not None]
        with_edge = [w.n_runs for w in group.widths if not w.edge.censored]
        for quantity, exponent, n_runs in (
            ("optimal", group.optimal, sum(with_optimum)),
            ("max_stable", group.max_stable, sum(with_edge)),
        ):
            rows.append(
                {
                    "param": group.param,
                    "optimizer": group.optimizer,
                    "loss": group.loss,
                    "quantity": quantity,
                    "estimator": PAPER,
                    "exponent": exponent.exponent,
                    "ci_low": exponent.ci_low,
                    "ci_high": exponent.ci_high,
                    "n_widths": exponent.n_widths,
                    "n_runs": n_runs,
                    "standard_error": exponent.standard_error,
                }
            )
    return pd.DataFrame(rows)


def write(fit: StudyFit) -> list[Path]:
    """Writes runs.csv, optima.csv, exponents.csv and fit.json into the first study folder, each atomically."""
    folder = fit.study.dirs[0]
    tables = {"runs": fit.study.runs, "optima": optima_table(fit), "exponents": exponent_table(fit)}
    paths = [
        write_text(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.10g"))
        for name, table in tables.items()
    ]
    return [*paths, write_text(folder / "fit.json", json.dumps(_as_json(fit), indent=2, allow_nan=False) + "\n")]


def write_text(path: Path, text: str) -> Path:
    """Replaces `path` by `text` and returns it. Raises `RequestError` where it cannot be written."""
    try:
        write_atomic(path, text)
    except OSError as error:
        raise RequestError(f"{path}: cannot write ({error.strerror})") from None
    return path


def _as_json(fit: StudyFit) -> dict[str, Any]:
    groups = []
    for group in fit.groups:
        curves = [
            {
                "width": w.width,
                **{field: values.tolist() for field, values in dataclasses.asdict(w.curve).items()},
                "unstable": w.unstable.tolist(),
            }
            for w in group.widths
        ]
        head = {key: getattr(group, key) for key in GROUP}
        text = {"answer": words.answer(group), "notes": words.notes(group)}
        groups.append({**head, **text, "curves": curves})
    study = fit.study
    content = {
        "study": study.name,
        "metric": fit.metric,
        "estimator": PAPER,
        "n_runs": len(study.runs),
        "n_unfinished": study.n_unfinished,
        "n_failed": study.n_failed,
        "recipe": study.recipe,
        "exponents": exponent_table(fit).to_dict("records"),
        "optima": optima_table(fit).to_dict("records"),
        "groups": groups,
        "runs": study.runs.to_dict("records"),
    }
    plain: dict[str, Any] = _without_nan(content)
    return plain


def _without_nan(value: Any) -> Any:
    """Strict JSON knows neither nan nor inf: null."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summary(fit: StudyFit) -> str:
    """The fit as plain text for a terminal."""
    study, left_out = fit.study, words.left_out(fit)
    lines = [f"{study.name}: {len(study.runs)} runs, by {words.METRIC_NAME[fit.metric]}{left_out and f' ({left_out})'}"]
    for group in fit.groups:
        lines += ["", words.group_title(group)]
        rows = [
            (
                str(w.width),
                words.optimum_cell(w),
                words.number(w.optimum.loss, 3),
                words.lr(w.edge.last_stable_lr),
                words.unstable_cell(w),
            )
            for w in group.widths
        ]
        lines += _aligned([("width", "best lr", "loss there", "stable up to", "unstable from"), *rows])
        lines += [""]
        exponents = [("optimal lr", group.optimal), ("max-stable lr", group.max_stable)]
        cells = [(name, words.exponent(e), words.interval(e), str(e.n_widths)) for name, e in exponents]
        lines += _aligned([("", "exponent", "95 % interval", "widths"), *cells])
        lines += [f"  - {note}" for note in words.notes(group)]
    return words.plain("\n".join(lines))


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterable[str]:
    rows = [tuple(words.plain(cell) for cell in row) for row in rows]
    sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(cell.ljust(size) for cell, size in zip(row, sizes, strict=True)).rstrip() for row in rows]


def parse_study_args(verb: str, description: str, argv: Sequence[str]) -> tuple[list[Path], Metric]:
    """The arguments that every verb on studies takes: ``STUDY... [--metric train|val]``. Raises `RequestError`."""
    parser = RequestParser(prog=f"pipeline {verb}", description=description, allow_abbrev=False)
    parser.add_argument("study", nargs="+", type=Path, metavar="STUDY", help="study folder, such as runs/quick")
    parser.add_argument(
        "--metric", choices=list(COLUMN), default="train", help="final loss to compare (default: train)"
    )
    parsed = parser.parse_args(argv)
    return parsed.study, parsed.metric


def main(argv: Sequence[str]) -> int:
    """`pipeline fit STUDY... [--metric train|val]`. Files go into the first study's folder."""
    dirs, metric = parse_study_args("fit", "Optimal and max-stable learning rate per width, and their exponents.", argv)
    fitted = fit(dirs, metric)
    paths = write(fitted)
    print(summary(fitted))
    print(f"\nWritten to {paths[0].parent}: {', '.join(path.name for path in paths)}")
    return 0
