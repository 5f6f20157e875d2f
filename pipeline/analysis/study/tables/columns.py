"""Which column of a table is what: as the user says, or by the names that other tools give."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.analysis.study.axis import AXES, WIDTH, Axis, of_column
from pipeline.analysis.study.tables import values
from pipeline.analysis.study.tables.raw import Raw
from pipeline.errors import RequestError

LOSSES = (
    "val_loss", "valid_loss", "validation_loss", "eval_loss", "test_loss", "train_loss", "training_loss", "final_loss",
    "final_val_loss", "final_train_loss", "final_training_loss", "final_validation_loss", "smooth_loss", "loss_val",
    "loss_train", "loss_final",
)  # fmt: skip
NAMES: dict[str, tuple[str, ...]] = {
    "lr": (
        "learning_rate", "peak_lr", "max_lr", "base_lr", "lr_max", "lr_peak", "peak_learning_rate",
        "max_learning_rate", "base_learning_rate", "init_lr", "initial_lr", "eta", "step_size",
    ),
    "loss": LOSSES,
    "seed": ("random_seed", "rng_seed", "run_seed", "seed_id", "replicate"),
    "diverged": ("is_diverged", "has_diverged", "divergence", "unstable", "exploded", "is_nan", "nan"),
    "param": ("parameterization", "parametrization", "parameterisation", "parametrisation"),
    "optimizer": ("optim", "opt", "optimiser", "optimizer_name", "optimizer_type"),
    "loss_kind": ("loss_name", "loss_fn", "loss_function", "loss_type", "criterion", "objective"),
    "state": ("status", "run_state"),
}  # fmt: skip
"""What a fit knows beside the axis, as `--columns` spells it, and what other people call it."""

_CAME_OUT = {"loss", "diverged", "state"}
"""Not set before training."""


@dataclass(frozen=True)
class Ask:
    """What the command line says of tables."""

    columns: Mapping[str, str] = field(default_factory=dict)
    axes: tuple[str, ...] = ()
    """One or two names of axes or of columns; none: the width, or what `columns` names."""
    group: tuple[str, ...] | None = None
    """Columns whose values make one family of curves; None: parameterization, optimizer and loss, if there."""


@dataclass(frozen=True)
class Meaning:
    """Of a table's columns."""

    of: Mapping[str, str]
    """``level``, ``second`` and the names of `NAMES` -> the table's column; those that it lacks are left out."""
    axes: tuple[Axis, ...]
    guessed: Mapping[str, str]
    """Those of `of` that go by another name there and were not given."""


def parse_columns(texts: Iterable[str]) -> dict[str, str]:
    """``width=d_model,lr=peak_lr`` as a mapping. Raises `RequestError`."""
    known = ["level", *AXES, *NAMES]
    found: dict[str, str] = {}
    for part in (part for text in texts for part in text.split(",") if part.strip()):
        name, equals, column = (piece.strip() for piece in part.partition("="))
        if not equals or not column:
            raise RequestError(f"--columns {part.strip()}: expected NAME=COLUMN, such as width=d_model")
        if name not in known:
            raise RequestError(f"--columns {part.strip()}: no name {name!r}{nearest(name, known)}")
        if name in found:
            raise RequestError(f"--columns names {name} twice")
        found[name] = column
    return found


def parse_list(flag: str, text: str, most: int = 99) -> tuple[str, ...]:
    """Names with commas between. Raises `RequestError`."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if len(names) > most or len(set(names)) < len(names):
        raise RequestError(f"{flag} {text}: expected at most {most} different names")
    return names


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of a message on a name that nobody knows."""
    low = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), low, n=1, cutoff=0.5)
    return f": did you mean {low[near[0]]}?" if near else f": choose from {', '.join(known)}"


def resolve(raw: Raw, ask: Ask) -> Meaning:
    """Raises `RequestError` for columns that are missing, or could be several."""
    given = dict(ask.columns)
    axes = _axes(raw, ask, given)
    unused = [name for name in given if name in AXES and AXES[name] not in axes]
    if unused:
        names = ",".join(axis.name for axis in axes)
        raise RequestError(f"--columns {unused[0]}={given[unused[0]]} is of no use along --axis {names}")
    of, guessed = {}, {}
    wanted = {("level", "second")[place]: (axis.name, axis.columns) for place, axis in enumerate(axes)}
    for key, (name, aliases) in (wanted | {name: (name, NAMES[name]) for name in NAMES}).items():
        if name in given:
            _require(raw, given[name], f"--columns {name}={given[name]}")
            of[key] = given[name]
            continue
        column = _find(raw, key, name, aliases, set(of.values()) | set(given.values()))
        if column is not None:
            of[key] = column
            if column != name:
                guessed[name] = column
    for key, (name, aliases) in (wanted | {name: (name, NAMES[name]) for name in ("lr", "loss")}).items():
        if key not in of:
            raise RequestError(_missing(raw, name, aliases))
    return Meaning(of, axes, guessed)


def _axes(raw: Raw, ask: Ask, given: dict[str, str]) -> tuple[Axis, ...]:
    """The axes asked for; the columns of those that are no known axis are put into `given`."""
    level = given.pop("level", None)
    names = ask.axes or ((level,) if level else tuple(name for name in AXES if name in given)[:2])
    if len(names) == 2 and not ask.axes:
        raise RequestError(
            f"--columns names {names[0]} and {names[1]}: say along which the fit goes, --axis {names[0]}"
        )
    if not names:
        return (WIDTH,)
    found = []
    for name in names:
        if name in AXES:
            found.append(AXES[name])
            continue
        _require(raw, name, f"--axis {name}", tuple(AXES))
        axis = next((axis for axis in AXES.values() if _plain(name) in axis.columns), of_column(name))
        given[axis.name] = name
        found.append(axis)
    if level and ask.axes:
        given.setdefault(found[0].name, level)
    return tuple(found)


def _require(raw: Raw, column: str, asked: str, others: tuple[str, ...] = ()) -> None:
    if column not in raw.frame.columns:
        raise RequestError(
            f"{raw.where}: no column {column!r} ({asked}){nearest(column, [*raw.frame.columns, *others])}"
        )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _find(raw: Raw, key: str, name: str, aliases: Sequence[str], taken: set[str]) -> str | None:
    """The column that goes by `name`, by an alias, or whose last part does; None: there is none."""
    free = [column for column in raw.frame.columns if column not in taken]
    if raw.settings is not None:
        free = [column for column in free if (column in raw.settings) != (key in _CAME_OUT)]
    # our own tables, and some others, write the kind of loss into a column of that name
    is_text = [c for c in free if _plain(c) == "loss" and values.is_text(raw.frame[c])]
    if key == "loss":
        free = [column for column in free if column not in is_text]
    elif key == "loss_kind" and is_text:
        return is_text[0]
    wanted = (name, *aliases)
    ranks = (
        [column for column in free if column == name],
        [column for column in free if _plain(column) == name],
        [column for column in free if _plain(column) in wanted],
        [column for column in free if _plain(re.split(r"[./]", column)[-1]) in wanted],
    )
    best: list[str] = next((columns for columns in ranks if columns), [])
    if key == "state":
        best = [column for column in best if values.is_state(raw.frame[column])]
    same = [column for column in best if raw.frame[column].equals(raw.frame[best[0]])]
    if len(same) < len(best):
        raise RequestError(
            f"{raw.where}: the {name} could be {' or '.join(best)}: say which by --columns {name}={best[0]}"
        )
    return best[0] if best else None


def _missing(raw: Raw, name: str, aliases: Sequence[str]) -> str:
    columns = list(raw.frame.columns)
    near = {close: column for alias in (name, *aliases) for column in columns
            for close in difflib.get_close_matches(_plain(column), [alias], n=1, cutoff=0.75)}  # fmt: skip
    hint = next(iter(near.values()), "")
    shown = ", ".join(columns[:12]) + (", ..." if len(columns) > 12 else "")
    how = f"did you mean --columns {name}={hint}?" if hint else f"name it by --columns {name}=COLUMN ({shown})"
    return f"{raw.where}: no column is called {name}: {how}"
