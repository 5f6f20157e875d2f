"""The help of verbs that take every setting: a screen of the usual ones, all of them, or those about a word."""

import ast
import dataclasses
import inspect
import itertools
import shutil
import textwrap
import typing
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, NoReturn, get_args, get_origin

from pipeline.config import DataConfig, RunConfig
from pipeline.entries.kinds import KINDS
from pipeline.errors import RequestError
from pipeline.recipes import keys, read_recipe
from pipeline.sweep.config import SweepConfig

EXAMPLE = next(iter(KINDS.values())).example
"""The recipe of one who names none."""

GROUPS: dict[str, tuple[str, ...]] = {
    "study": (
        "widths", "lrs", "params", "seeds", "grid", "plan", "target_half_width", "target_regret", "at_width", "budget",
        "workers", "launcher", "profile",
    ),
    "model": (
        "width", "param", "base_width", "model.kind", "model.name", "model.n_layer", "embedding_init", "readout_init",
        "depth_scaling", "base_depth",
    ),
    "data": ("data", "data.path"),
    "training": (
        "lr", "optimizer", "loss", "z_loss", "steps", "epochs", "last_batch", "stop_after", "warmup_steps", "schedule",
        "lr_min_ratio", "decay_fraction", "decay_shape", "global_batch", "seq_len", "weight_decay",
        "weight_decay_scaling", "betas", "eps", "eps_scaling", "momentum", "muon_scale", "muon_momentum", "grad_clip",
        "seed", "batch_scaling", "base_batch", "steps_scaling", "base_steps", "steps_exponent",
    ),
    "machine": ("devices", "num_nodes", "strategy", "precision", "micro_batch", "stall_minutes"),
    "files": (
        "study", "out", "wandb", "mirrors", "log_interval", "val_interval", "val_sequences", "checkpoint_interval",
        "checkpoint_minutes", "keep_last", "keep_checkpoint", "branch_steps", "abort_after",
    ),
}  # fmt: skip
"""Titles -> settings in the order of the help; those of sections that stand in no group follow under their section."""

USUAL = {
    "widths", "lrs", "params", "seeds", "grid", "plan", "budget", "workers", "launcher", "width", "param", "model.kind",
    "model.name", "model.n_layer", "data", "lr", "optimizer", "loss", "steps", "warmup_steps", "global_batch",
    "seq_len", "weight_decay", "grad_clip", "seed", "devices", "strategy", "precision", "micro_batch", "study", "out",
    "wandb",
}  # fmt: skip
"""What the short help shows."""

_NOT_SETTINGS = {
    "config": ("RECIPE", "A recipe by name or path; later ones win (default: quick, of vectors mlp-digits)."),
    "wandb": (
        "auto|online|offline|disabled",
        "Mirror to W&B; auto: WANDB_MODE, else online where logged in, else disabled. The same as --wandb.mode.",
    ),
    "data": ("SOURCE", "A data recipe's name, a file or glob of text, files of vectors, or a prepared folder."),
    "dry_run": ("", "Print what would run, what it takes and what it costs, and run nothing."),
    "json": ("", "Print the result as JSON."),
    "print_config": ("", "Print all settings as YAML."),
}
_OF_SWEEPS = {"calibrate": ("", "With --dry_run: measure a few steps at every width for the hours that are expected.")}


def print_help(verb: Literal["train", "sweep"], about: str = "") -> NoReturn:
    """Print the usual flags of `verb`, ``all`` of them, or those whose name or description has the word; and exit."""
    print("\n".join(lines(verb, about)))
    raise SystemExit(0)


def source_lines(verb: str, cls: type, source: DataConfig, skip: Collection[str], about: str = "") -> Iterator[str]:
    """The help of a verb on data sources, with what `source` says as defaults of the settings of `cls`, of which those
    to `skip` are left out. Raises `RequestError` for a word that occurs nowhere."""
    known = {name: one for name, one in _settings(cls, vars(source)).items() if name in keys(cls) and name not in skip}
    shown = [name for name in known if about in ("", "all") or _shows(name, known[name], about)]
    if not shown:
        raise _nothing_says(verb, about)
    yield f"usage: pipeline {verb} SOURCE [--KEY VALUE ...]"
    yield "SOURCE: a data recipe's name, a YAML, a text file or glob, or a prepared folder. Flags go over what it says."
    for name in shown:
        yield from _flag(name, known[name], short=False)


def _nothing_says(verb: str, about: str) -> RequestError:
    return RequestError(f"pipeline {verb} --help {about}: no setting says so (see pipeline {verb} --help all)")


def lines(verb: Literal["train", "sweep"], about: str = "") -> Iterator[str]:
    """The help, line by line. Raises `RequestError` for a word that occurs nowhere."""
    cls = SweepConfig if verb == "sweep" else RunConfig
    settings = _settings(cls, read_recipe(EXAMPLE, keys(SweepConfig)))
    known = {name: described for name, described in settings.items() if verb == "sweep" or name != "calibrate"}
    shown = {name for name in known if _shows(name, known[name], about)}
    if not shown:
        raise _nothing_says(verb, about)
    yield f"usage: pipeline {verb} [--config RECIPE] [--KEY VALUE ...]"
    yield (cls.__doc__ or "").splitlines()[0]
    placed: set[str] = set()
    first = ("config", "dry_run", "calibrate", "json", "print_config")
    sections = dict.fromkeys(name.partition(".")[0] for name in known if "." in name)
    for title, names in [("", first), *GROUPS.items(), *((one, ()) for one in sections if one not in GROUPS)]:
        own = [name for name in (*names, *_of_section(title, known)) if name in shown - placed]
        placed |= set(own)
        if own and title:
            yield f"{title}:"
        for name in own:
            yield from _flag(name, known[name], short=not about)
    if not about:
        yield f"More: --help all, or --help WORD about it, such as --help checkpoint; [...]: as {EXAMPLE} has it"


def _shows(name: str, described: tuple[str, str, str], about: str) -> bool:
    if about in ("", "all"):
        return bool(about) or name in USUAL or (name in {*_NOT_SETTINGS, *_OF_SWEEPS} and name != "print_config")
    return about.lower() in f"{name} {described[1]}".lower()


def _of_section(title: str, known: dict[str, Any]) -> Iterator[str]:
    grouped = {name for names in GROUPS.values() for name in names}
    return (name for name in known if name.startswith(f"{title}.") and name not in grouped)


def _settings(cls: type, given: Mapping[str, Any] = MappingProxyType({})) -> dict[str, tuple[str, str, str]]:
    """Flags by name -> what they take, what they are, and their default: what is `given`, by dotted keys, or that of
    the class."""
    found = {name: (takes, text, "") for name, (takes, text) in (_NOT_SETTINGS | _OF_SWEEPS).items()}
    hints, texts = typing.get_type_hints(cls), _texts(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.default):
            below = {
                key.removeprefix(f"{field.name}."): value for key, value in given.items() if f"{field.name}." in key
            }
            inner = _settings(type(field.default), below).items()
            found |= {f"{field.name}.{name}": entry for name, entry in inner if name not in found}
        else:
            default = _default(given.get(field.name, field.default))
            found[field.name] = (_takes(hints[field.name]), texts.get(field.name, ""), default)
    return found


def _texts(cls: type) -> dict[str, str]:
    """The strings below the fields of a class and of those that it inherits from."""
    found = {}
    for one in (one for one in reversed(cls.__mro__) if dataclasses.is_dataclass(one)):
        body = ast.parse(inspect.getsource(one)).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in itertools.pairwise(body.body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = " ".join(text.split())
    return found


def _default(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value) if isinstance(value, int | float | str) else ""


def _takes(hint: Any) -> str:
    """What a flag of this type takes, in a word."""
    if get_origin(hint) is Literal:
        return "|".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        return "LIST"
    members = [one for one in get_args(hint) or (hint,) if one is not type(None)]
    words = [_takes(one) if get_origin(one) is Literal else _WORDS.get(one, "VALUE") for one in members]
    return "|".join(dict.fromkeys(words))


_WORDS: dict[Any, str] = {int: "INT", float: "NUMBER", bool: "true|false", str: "TEXT"}


def _flag(name: str, described: tuple[str, str, str], short: bool) -> list[str]:
    takes, text, default = described
    width = min(100, max(60, shutil.get_terminal_size((100, 24)).columns))
    flag = f"--{name}{'.KEY' if name == 'grid' else ''}"
    said = text if not short else text.partition(". ")[0].rstrip(".")
    if short and len(takes) >= 12:
        said += f": {takes.replace('|', ', ')}"
    if default and "default" not in said:
        said += f" [{default}]"
    head = f"  {flag} {takes if not short or len(takes) < 12 else ''}".rstrip()
    if short:
        line = f"{head:30}  {said}"
        return [line if len(line) <= width else f"{line[: width - 4].rpartition(' ')[0]} ..."]
    return [head, *textwrap.wrap(said, width, initial_indent=" " * 6, subsequent_indent=" " * 6)]
