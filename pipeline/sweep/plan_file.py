"""``runs/STUDY/plan.jsonl`` of an adaptive sweep: a line per round, with its runs, why each, and what was known; and
by it how far the sweep is."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.console import plural
from pipeline.errors import RequestError
from pipeline.files import read_jsonl, write_atomic

PLAN = "plan.jsonl"


@dataclass(frozen=True)
class Budget:
    """What a sweep may spend; infinite where nothing was said."""

    runs: float = math.inf
    hours: float = math.inf


def budget(text: str) -> Budget:
    """``"200"`` or ``"200 runs"``, ``"20h"``. Raises `RequestError`."""
    words = text.strip().lower()
    try:
        if not words:
            return Budget()
        if words.endswith("h"):
            return Budget(hours=_positive(float(words[:-1])))
        return Budget(runs=_positive(int(words.removesuffix("runs").removesuffix("run"))))
    except ValueError:
        raise RequestError(f"--budget: expected runs such as 200, or hours such as 20h, got {text!r}") from None


def _positive(value: float) -> float:
    if not 0 < value < math.inf:
        raise ValueError
    return value


def recorded(study: Path) -> list[dict[str, Any]]:
    """The entries: rounds, and the end where it was reached, which has no runs. Raises `RequestError`."""
    try:
        return read_jsonl(study / PLAN)
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise damaged(study, f" ({error})") from None


def damaged(study: Path, why: str = "") -> RequestError:
    return RequestError(f"{study / PLAN} is damaged{why}: delete it, the finished runs are kept")


def append(study: Path, entry: Mapping[str, Any]) -> None:
    """Add a round, or the end; an end that was recorded before is none any more."""
    study.mkdir(parents=True, exist_ok=True)
    rounds = [line for line in recorded(study) if line["runs"]]
    write_atomic(study / PLAN, "".join(json.dumps(line) + "\n" for line in [*rounds, entry]))


@dataclass(frozen=True)
class Standing:
    """How far an adaptive sweep is."""

    round: int
    """The last one that began."""
    ended: bool
    finding: str
    """What was known when the round began, or at the end, in words."""
    reached: Mapping[str, Mapping[str, float | None]]
    """By parameterization: the half-widths of the 95 % intervals of both exponents, or the expected regret, whichever
    was asked for; None: not known yet. Empty before all widths have been opened."""
    asked: float | None
    """Of them."""
    budget: str

    def lines(self, runs: int, hours: float) -> list[str]:
        """In words; so many `runs` and device-`hours` are spent."""
        asked = f" (asked for: {self.asked:g})" if self.asked is not None and not self.ended else ""
        given = budget(self.budget)
        spent = f"{plural(runs, 'run')} and {hours:.2g} device-hours spent"
        whole = ", without a budget" if given == Budget() else f" of a budget of {self.budget}"
        whole += " runs" if whole.endswith(tuple("0123456789")) else ""
        state = "ended after round" if self.ended else "round"
        return [f"adaptive, {state} {self.round}: {self.finding}{asked}", f"{spent}{whole}"]


def standing(study: Path) -> Standing | None:
    """None: the study is no adaptive sweep's. Raises `RequestError`."""
    entries = recorded(study)
    if not entries:
        return None
    last = entries[-1]
    try:
        return Standing(
            round=last["round"],
            ended=not last["runs"],
            finding=last["finding"],
            reached=last.get("reached", {}),
            asked=last.get("asked"),
            budget=last.get("budget", ""),
        )
    except (KeyError, TypeError):
        raise damaged(study) from None
