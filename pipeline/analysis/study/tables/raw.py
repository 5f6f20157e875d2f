"""A table as its source has it: columns of text and numbers, before anyone knows what they mean."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Raw:
    """The rows of one source. A blank cell is ``""`` or missing (nan)."""

    where: str
    """How messages call it."""
    folder: Path
    """Where a fit's files go."""
    frame: pd.DataFrame
    row: str = "row"
    """What messages call a row, counted from 1."""
    settings: frozenset[str] | None = None
    """The columns that were set before training, where the source tells them from what came out; None: it does not."""
    row_names: tuple[str, ...] = ()
    """Of every row, where they have names that help to find them."""

    def at(self, place: int) -> str:
        """A row, by its place from 0, as messages name it."""
        name = f" ({self.row_names[place]})" if self.row_names else ""
        return f"{self.where}, {self.row} {place + 1}{name}"


def flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested objects as one, their keys joined by dots: ``{"model.width": 64}``. Lists become their JSON, nan and inf
    their names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{before}{key}"
        if isinstance(value, dict):
            found |= flat(value, f"{name}.")
        elif isinstance(value, float) and not math.isfinite(value):
            found[name] = str(value)  # a frame takes nan for a missing value
        else:
            found[name] = json.dumps(value) if isinstance(value, list) else value
    return found


def run_row(config: dict[str, Any], summary: dict[str, Any], state: str) -> dict[str, Any]:
    """One run of W&B as a flat row; a logged value that has the name of a setting goes by ``summary.`` and its name."""
    settings, logged = flat(config), flat(summary)
    own = {key: value for key, value in settings.items() if not key.startswith("_wandb")}
    came_out = {
        f"summary.{key}" if key in own else key: value for key, value in logged.items() if not key.startswith("_")
    }
    return {**own, **came_out, "state": state}
