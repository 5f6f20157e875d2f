"""Loss over training: of every width one run per learning rate, thinned to what a small chart can show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline.analysis.fit.study_fit import GroupFit, StudyFit, WidthFit
from pipeline.analysis.page import words
from pipeline.analysis.page.svg import Panel, Point
from pipeline.analysis.study.load import Study
from pipeline.analysis.study.runs import Floats

MOST_POINTS, MOST_LINES, MOST_PANELS = 80, 12, 24
"""Of a line; of a panel, evenly over the learning rates, the best one always among them; of the page."""


@dataclass(frozen=True)
class Line:
    """A run's training loss, means of stretches of steps."""

    lr: float
    steps: list[float]
    losses: list[float]
    ended: str
    """best, stable or unstable."""


def lines(fit: StudyFit, group: GroupFit, w: WidthFit) -> list[Line]:
    """Of the first seed at every learning rate; empty where runs have no records."""
    if not isinstance(fit.study, Study):
        return []
    runs = fit.study.runs
    own = runs[(runs[list(group.key)] == list(group.key.values())).all(axis=1) & (runs["width"] == w.width)]
    first = own.sort_values("seed").drop_duplicates("lr").sort_values("lr")
    found = []
    for _, run in _thinned(first, w.optimum.lr).iterrows():
        records = fit.study.directory(str(run["run"])).records()
        steps = np.array([record.step for record in records], dtype=np.float64)
        losses = np.array([record.number("loss") for record in records])
        at = int(np.argmin(np.abs(w.curve.lrs - run["lr"])))
        ended = "unstable" if w.unstable[at] else "best" if at == w.optimum.index else "stable"
        found.append(Line(float(run["lr"]), *thin(steps, losses), ended))
    return found


def _thinned(runs: pd.DataFrame, best: float) -> pd.DataFrame:
    if len(runs) <= MOST_LINES:
        return runs
    kept = set(np.linspace(0, len(runs) - 1, MOST_LINES - 1).round().astype(int))
    kept |= {int(np.argmin(np.abs(runs["lr"].to_numpy() - best)))} if math.isfinite(best) else set()
    return runs.iloc[sorted(kept)]


def thin(steps: Floats, losses: Floats) -> tuple[list[float], list[float]]:
    """At most `MOST_POINTS`, each the mean of a stretch, at its end; the first record stays, and what is not finite
    ends it."""
    finite = np.isfinite(losses)
    until = len(losses) if finite.all() else int(np.argmin(finite))
    steps, losses = steps[:until], losses[:until]
    if until <= MOST_POINTS:
        return steps.tolist(), losses.tolist()
    parts = np.array_split(np.arange(1, until), MOST_POINTS - 1)
    return (
        [float(steps[0]), *(float(steps[part[-1]]) for part in parts)],
        [float(losses[0]), *(float(losses[part].mean()) for part in parts)],
    )


def chart(drawn: Sequence[Line], label: str, classes: str, size: Point = (360, 210)) -> Markup:
    """Loss against step: the best learning rate in the group's colour, unstable ones dashed."""
    values = [loss for line in drawn for loss in line.losses if line.ended != "unstable"]
    values = values or [loss for line in drawn for loss in line.losses]
    first = max((line.losses[0] for line in drawn if line.losses), default=1.0)
    low, high = min(values, default=0.0), max([first, *(line.losses[-1] for line in drawn if line.ended != "unstable")])
    room = 0.05 * (high - low) or 0.1
    last = max((line.steps[-1] for line in drawn if line.steps), default=1.0)
    best = next((line for line in drawn if line.ended == "best"), None)
    said = "" if best is None else f", the best one, {words.lr(best.lr)}, down to {best.losses[-1]:.4g}"
    panel = Panel.of(
        size, f"{label}: training loss over {last:.0f} steps at {len(drawn)} learning rates{said}", (0.0, last),
        (low - room, high + room), x_log=False, margins=(20, 14, 34, 44), x_title="step", y_title="training loss",
        x_ticks=[0, round(last / 2), last],
    )  # fmt: skip
    for line in sorted(drawn, key=lambda line: line.ended == "best"):
        kind = {"best": f"line {classes}", "stable": "run", "unstable": f"run lost {classes}"}[line.ended]
        title = f"lr {words.lr(line.lr)}, {line.ended}: last {line.losses[-1]:.4g}" if line.losses else ""
        panel.line(kind, list(zip(line.steps, line.losses, strict=True)), title)
    return panel.drawing.element()
