"""The numbers that Haas et al. (2025) and their plotting scripts print, and the learning rates of GPT-3 that they plot,
from `analysis/published/`. Nothing there is read off a plot.

In the tables an empty cell says that the source names no such thing, and ``;`` separates several values. `data` has the
names of our recipes, `optimizer` those of families of optimizers.
"""

import csv
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import RequestError
from pipeline.recipes import shipped_folder

FOLDER = "analysis/published"
EXPONENTS = ("figures", "table_f1")
"""The tables of exponents: as text and captions state them, and Table F.1."""


@dataclass(frozen=True)
class Exponent:
    """A published learning-rate exponent, the slope d log(lr) / d log(n)."""

    setting: str
    """In words."""
    facts: Mapping[str, Collection[str]]
    """What the setting fixes, by name, each with the values that it covers: model, depth, activation, param, optimizer,
    loss, train, norms, data."""
    quantity: str
    """optimal, max_stable."""
    exponent: float
    stated: str
    """How firmly, in the source's words."""
    items: tuple[str, ...]
    """Figures and tables, or sections where there is none: ``Figure F.14``."""
    source: str

    def holds_for(self, facts: Mapping[str, str], but: Collection[str] = ()) -> bool:
        """Whether a setting of these facts is one that it was published for, `but` for some of them."""
        return all(facts.get(name) in values for name, values in self.facts.items() if name not in but)


@dataclass(frozen=True)
class LearningRate:
    """A learning rate of one width, from the plotting scripts."""

    setting: str
    model: str
    param: str
    optimizer: str
    loss: str
    grad_clip: float
    data: str
    quantity: str
    """optimal, min_unstable."""
    width: int
    lr: float
    source: str


def read(name: str) -> list[dict[str, str]]:
    """The rows of ``analysis/published/NAME.csv`` as they are. Raises `RequestError` for a table that is not there."""
    path = shipped_folder(FOLDER) / f"{name}.csv"
    try:
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise RequestError(f"{path}: no such table of published numbers") from None


_FACTS = ("model", "depth", "activation", "param", "optimizer", "loss", "train", "norms", "data")


def _exponent(row: Mapping[str, str]) -> Exponent:
    facts = {name: tuple(row[name].split(";")) for name in _FACTS if row[name]}
    rest = (row["quantity"], float(row["exponent"]), row["stated"], tuple(row["item"].split(";")), row["source"])
    return Exponent(row["setting"], facts, *rest)


def exponents(
    *, setting: str | None = None, quantity: str | None = None, dataset: str | None = None, item: str | None = None
) -> list[Exponent]:
    """The published exponents, all or those of a `setting` (part of its words), a `quantity`, a `dataset` (our recipe's
    name) and an `item` (`item_of`), in the order of the paper. Cells that the paper leaves empty are left out."""
    found = [_exponent(row) for name in EXPONENTS for row in read(name) if row["exponent"]]
    return [
        one
        for one in found
        if (setting is None or setting.lower() in one.setting.lower())
        and quantity in (None, one.quantity)
        and (dataset is None or dataset in one.facts.get("data", ()))
        and (item is None or item in one.items)
    ]


def item_of(text: str) -> str:
    """``Fig 5``, ``fig. F.14``, ``5``, ``table f1`` -> ``Figure 5``, ``Figure F.14``, ``Table F.1``. Raises
    `RequestError` for one of which no exponent was published."""
    known = list(dict.fromkeys(item for one in exponents() for item in one.items))
    asked = re.fullmatch(r"(fig(?:ure)?|table|section)?\.?\s*([A-F]?)\.?(\d+)", text.strip(), re.IGNORECASE)
    if asked is not None:
        kind, letter, number = (part or "" for part in asked.groups())
        kind = "Figure" if kind.lower().startswith("fig") or not kind else kind.capitalize()
        item = f"{kind if kind != 'Section' else 'section'} {letter.upper()}{'.' * bool(letter)}{number}"
        if item in known:
            return item
    raise RequestError(f"no exponents were published under {text!r}: choose one of {', '.join(known)}")


def checks(item: str) -> list[dict[str, str]]:
    """The width exponents of updates and alignments that a figure (`Figure E.16`) was published with."""
    return [row for row in read("coordinate_checks") if row["item"] == item]


def learning_rates() -> list[LearningRate]:
    """Optimal and minimal unstable learning rates of the published GPTs."""
    return [_learning_rate(row) for row in read("learning_rates")]


def _learning_rate(row: dict[str, Any]) -> LearningRate:
    typed = {"grad_clip": float(row["grad_clip"]), "width": int(row["width"]), "lr": float(row["lr"])}
    return LearningRate(**row | typed)


def constants(topic: str) -> dict[str, str]:
    """Constants of the published experiments by name, as text."""
    return {row["name"]: row["value"] for row in read("constants") if row["topic"] == topic}
