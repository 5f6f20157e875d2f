"""The ledger of predictions in words: what was recorded, how predictions came out, and JSON that says the same."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.analysis.fit.fitted import Lr, Quantity
from pipeline.analysis.fit.ledger import Line
from pipeline.analysis.fit.measured import Regret
from pipeline.analysis.fit.scores import Score, Scored, Totals, Waiting
from pipeline.analysis.page import words
from pipeline.analysis.page.words_fit import NAME
from pipeline.console import plural, wrapped

_LR: dict[Quantity, str] = {"optimal": "optimal lr", "max_stable": "max-stable lr"}
_HEADER = (
    "recorded (UTC)",
    "width",
    "",
    "by",
    "predicted (interval)",
    "measured ± octaves",
    "error",
    "inside",
    "+ its error",
    "regret",
    "of recommended",
)


def recorded(lines: Sequence[Line], path: Path) -> str:
    """What was added to the ledger."""
    many = plural(len(lines), "prediction")
    return f"Recorded in {path}: {many}. Once the runs are made, pipeline predict --score says how they came out."


def summary(scored: Scored, name: str) -> str:
    """Plain text for a terminal: every prediction beside its measurement, the totals, and what nothing is known of."""
    lines = [f"{name}: recorded predictions against what was measured since"]
    for group in dict.fromkeys(score.line.group for score in scored.scores):
        of_group = [score for score in scored.scores if score.line.group == group]
        lines += ["", _title(group), *words.aligned([_HEADER, *map(_row, of_group)])]
    if scored.scores:
        lines += ["", "  Errors are log2 of predicted over measured; regrets are in the unit of the loss."]
    for note in [*map(total, scored.totals), *notes(scored)]:
        lines += wrapped(note, "  - ")
    return words.plain("\n".join(lines))


def total(one: Totals) -> str:
    """The totals of a quantity and an estimator in a few sentences."""
    of = f"{plural(one.n, 'prediction')} of {plural(one.targets, 'target')}"
    said = [f"{words.capital(_LR[one.quantity])} by {one.estimator}, {of}:"]
    if one.with_interval:
        n = one.with_interval
        said.append(
            f"{one.inside} of {n} measured values inside the intervals ({one.expected_inside:.3g} expected), "
            f"{one.inside_with_error} of {n} with the measurement's own error;"
        )
    said.append(f"error {one.rms:.2f} octaves rms, {_signed(one.bias)} on average, CRPS {one.crps:.3f} octaves.")
    if not math.isnan(one.regret):
        at_least = "at least " if one.beyond else ""
        more = "" if math.isnan(one.regret_recommended) else f", {one.regret_recommended:.4f} at the recommended rate"
        said.append(f"Mean regret {at_least}{one.regret:.4f}{more}.")
    return " ".join(said)


def notes(scored: Scored) -> list[str]:
    """What the totals leave out, one sentence each."""
    found = []
    late = sum(score.late for score in scored.scores)
    if late:
        found.append(f"{plural(late, 'line')} marked ! recorded after runs of the width had begun: not in the totals.")
    if any(r and r.beyond for score in scored.scores for r in (score.regret, score.regret_recommended)):
        found.append("Regrets with ≥ are of learning rates outside those tried: the nearest one's.")
    none_yet = [one for one in scored.waiting if one.why is None]
    if none_yet:
        widths = words.widths_text(sorted({one.line.width for one in none_yet}))
        found.append(f"Nothing measured yet at {widths}: no run there has finished.")
    found += dict.fromkeys(map(_why, (one for one in scored.waiting if one.why is not None)))
    if not scored.scores and not scored.waiting:
        found.append("No prediction of a learning rate was recorded for this study.")
    if scored.other_recipes:
        found.append(f"{plural(scored.other_recipes, 'line')} of the ledger left out: on runs of another recipe.")
    return found


def as_json(scored: Scored, name: str, path: Path) -> dict[str, Any]:
    """Everything that `summary` says."""
    return {
        "study": name,
        "ledger": str(path),
        "scores": [_score_json(score) for score in scored.scores],
        "totals": [dataclasses.asdict(one) for one in scored.totals],
        "waiting": [
            {**_about(one.line, one.quantity), "why": "no finished run" if one.why is None else one.why.value}
            for one in scored.waiting
        ],
        "other_recipes": scored.other_recipes,
    }


# ---------------------------------------------------------------------------------------------------------------------


def _title(group: tuple[str, str, str]) -> str:
    return " · ".join(part for part in map(words.label, group) if part)


def _row(score: Score) -> tuple[str, ...]:
    line, predicted = score.line, score.predicted
    return (
        f"{line.time:%Y-%m-%d %H:%M}{' !' if score.late else ''}",
        str(line.width),
        _LR[score.quantity],
        line.estimator,
        words.lr_with_interval(Lr(predicted.lr, predicted.low, predicted.high)),
        f"{words.lr(2.0**score.measured.x)} ± {score.measured.error:.2f}",
        _signed(score.error),
        _yes(score.inside),
        _yes(score.inside_with_error),
        _regret(score.regret),
        _regret(score.regret_recommended),
    )


def _yes(inside: bool | None) -> str:
    return words.DASH if inside is None else "yes" if inside else "no"


def _signed(octaves: float) -> str:
    return f"{round(octaves, 2) + 0.0:+.2f}".replace("-", words.MINUS)


def _regret(of: Regret | None) -> str:
    return words.DASH if of is None else f"{'≥ ' if of.beyond else ''}{of.loss:.4f}"


def _why(one: Waiting) -> str:
    assert one.why is not None
    at = f"Width {one.line.width}, {_title(one.line.group)}"
    return f"{at}: the {NAME[one.quantity]} is not measured: {one.why.value}."


def _about(line: Line, quantity: Quantity) -> dict[str, Any]:
    own = {key: getattr(line, key) for key in ("param", "optimizer", "loss", "width", "estimator", "metric", "value")}
    return {"recorded": line.time.isoformat(timespec="seconds"), **own, "quantity": quantity, "level": line.level}


def _score_json(score: Score) -> dict[str, Any]:
    return {
        **_about(score.line, score.quantity),
        "predicted": {key: getattr(score.predicted, key) for key in ("lr", "low", "high")},
        "measured": {"lr": 2.0**score.measured.x, "error_octaves": score.measured.error},
        "error_octaves": score.error,
        "inside": score.inside,
        "inside_with_error": score.inside_with_error,
        "crps": score.crps,
        "regret": _regret_json(score.regret),
        "recommended": score.line.recommended["lr"],
        "regret_recommended": _regret_json(score.regret_recommended),
        "started": None if score.started is None else score.started.isoformat(timespec="seconds"),
        "late": score.late,
    }


def _regret_json(of: Regret | None) -> dict[str, Any] | None:
    return None if of is None else dataclasses.asdict(of)
