"""The result of a run and its records: what result.json and the lines of metrics.jsonl hold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

Status = Literal["completed", "diverged", "aborted"]
"""How a run that is done with ended. aborted: stopped by an adaptive sweep, because it had left the stable region."""

FAILED = "failed"
"""The status of a run that ended in an error and may be tried again."""


class Record(dict[str, Any]):
    """One logged step, a line of metrics.jsonl, by flat names (README, "A run on disk"; `pipeline.diagnostics`). A
    number that is not finite reads None."""

    @property
    def step(self) -> int:
        return int(self["step"])

    @property
    def loss(self) -> float | None:
        """The training loss."""
        value: float | None = self["loss"]
        return value

    def number(self, name: str) -> float:
        """The value of that name; nan where it is not finite. Raises `KeyError` where it was not recorded."""
        return _number(self[name])


@dataclass(frozen=True)
class RunResult:
    """How a run ended, written once."""

    status: Status
    final: Mapping[str, float | None]
    """``final_train_loss``, ``final_val_loss`` and the like of what else was recorded (`final_values`); None: not
    finite, or not reached."""
    steps: int
    tokens: int
    """Predictions learned from: tokens of text, or examples."""
    seconds: float
    tokens_per_second: float
    parameters: int
    diverged_at: int | None
    """The step whose training loss was the first that is not finite."""

    def final_value(self, name: str) -> float:
        """Of ``train_loss`` and the like; nan where it is not finite or was not recorded."""
        return _number(self.final.get(f"final_{name}"))

    def to_json(self) -> dict[str, Any]:
        """The content of result.json."""
        own = {name: getattr(self, name) for name in _COUNTS}
        return {"status": self.status, **self.final, **own, "diverged_at": self.diverged_at}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "RunResult":
        """Raises `KeyError`, `TypeError` or `ValueError` for what is none."""
        status = content["status"]
        if not isinstance(status, str) or status not in get_args(Status):
            raise ValueError(f"status {status!r}")
        final = {name: _loss(name, content[name]) for name in content if name.startswith("final_")}
        if missing := {"final_train_loss", "final_val_loss"} - final.keys():
            raise KeyError(min(missing))
        if status == "completed" and final["final_train_loss"] is None:
            raise ValueError("status completed, and final_train_loss null")
        at = content["diverged_at"]
        counts: dict[str, Any] = {name: kind(_count(name, content[name])) for name, kind in _COUNTS.items()}
        return cls(
            status=cast(Status, status),
            final=final,
            diverged_at=None if at is None else int(_count("diverged_at", at)),
            **counts,
        )

    def __str__(self) -> str:
        """In a few words. A validation loss may be infinite where the training loss was not yet."""
        if self.status == "diverged":
            return f"diverged: the training loss was not finite at step {self.diverged_at}"
        if self.status == "aborted":
            return f"aborted at step {self.steps}: the training loss stayed well above its first value"
        train, val = (
            "not finite" if math.isnan(x) else f"{x:.4f}"
            for x in (self.final_value("train_loss"), self.final_value("val_loss"))
        )
        return f"training loss {train}, validation {val}"


_COUNTS = {"steps": int, "tokens": int, "seconds": float, "tokens_per_second": float, "parameters": int}


def final_values(records: Sequence[Record], steps: int) -> dict[str, float | None]:
    """``final_train_*``: mean over the records of the last 5 % of `steps` (at least the last record); ``final_val_*``:
    the last validation's. Of the loss always, of cross-entropy and accuracy where they are recorded."""
    final: dict[str, float | None] = {}
    for name in ("loss", "cross_entropy", "accuracy"):
        tail = [r for r in records if r.step > 0.95 * steps] or records[-1:]
        train = [r[name] for r in tail if name in r]
        val = [r[f"val_{name}"] for r in records if f"val_{name}" in r]
        if train or name == "loss":
            final[f"final_train_{name}"] = None if not train or None in train else sum(train) / len(train)
            final[f"final_val_{name}"] = val[-1] if val else None
    return final


def _loss(name: str, value: Any) -> float | None:
    """A loss or an accuracy. Raises `ValueError`."""
    if value is None:
        return None
    found = _finite(name, value)
    if found < 0:
        raise ValueError(f"{name} {found:g} is below 0")
    return found


def _count(name: str, value: Any) -> float:
    """Raises `ValueError`."""
    found = _finite(name, value)
    if found < 0 or (_COUNTS.get(name, int) is int and not found.is_integer()):
        raise ValueError(f"{name} {value!r}")
    return found


def _finite(name: str, value: Any) -> float:
    """Raises `ValueError` for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} {value!r} is no number")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise ValueError(f"{name} is too large")
    return found


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
