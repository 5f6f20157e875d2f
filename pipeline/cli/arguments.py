"""Command lines: the flags of verbs with settings of runs, studies or sources, and the parser of all other verbs."""

import argparse
import dataclasses
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NoReturn, TypeVar

from pipeline.config import DataConfig, RunConfig
from pipeline.entries.texts import unused
from pipeline.errors import RequestError
from pipeline.files import expanded
from pipeline.recipes import (
    axes,
    build,
    data_recipe,
    keys,
    read_recipe,
    reject_unknown,
    settings_parser,
    shipped,
    typed,
)
from pipeline.sweep.config import SweepConfig

C = TypeVar("C", bound=RunConfig)


def user_path(text: str) -> str:
    """The type of arguments that are paths, or may be; those of type `Path` are of it."""
    try:
        return expanded(text, "")
    except RequestError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class RequestParser(argparse.ArgumentParser):
    """A parser of the verbs that take no settings; its complaints are `RequestError`, its `Path`s are expanded."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register("type", Path, lambda text: Path(user_path(text)))

    def parse_args(self, args: Sequence[str] | None = None) -> argparse.Namespace:  # type: ignore[override]
        parsed, rest = self.parse_known_args(list(_joined(sys.argv[1:] if args is None else args)))
        if rest:
            _refuse_unrecognized(rest, {flag.lstrip("-") for flag in self._option_string_actions})
        return parsed

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{self.prog}: {message} (see {self.prog} --help)")


# ---------------------------------------------------------------------------------------------------------------------
# Runs and studies


def parse(verb: Literal["train", "sweep"], argv: Sequence[str]) -> tuple[Any, bool]:
    """The config that `argv` asks of `verb` (`RunConfig` or `SweepConfig`), and whether ``--dry_run`` was given.

    ``--config`` files apply in order over the defaults (the recipe `quick` when none is given), flags over all of them.
    Raises `RequestError`; ``--help`` and ``--print_config`` print and exit.
    """
    cls = RunConfig if verb == "train" else SweepConfig
    flags = Flags(cls, argv)
    if flags.help:
        print_help(verb)
    return flags.config(), flags.dry_run


def print_help(verb: Literal["train", "sweep"]) -> NoReturn:
    """Print the flags of `verb`, and exit."""
    import jsonargparse

    cls = RunConfig if verb == "train" else SweepConfig
    parser = jsonargparse.ArgumentParser(prog=f"pipeline {verb}", description=cls.__doc__)
    parser.add_argument("--config", action="config", help="A recipe by name or path; later ones win (default: quick)")
    add = parser.add_argument
    add("--dry_run", action="store_true", default=argparse.SUPPRESS, help="Print what would run, and run nothing.")
    settings_parser(cls, parser).print_help()
    raise SystemExit(0)


class Flags:
    """What a command line asks of a run's or a study's settings, before their types are known to be right."""

    def __init__(self, cls: type[C], argv: Sequence[str], own: Collection[str] = ()) -> None:
        """`own` are flags of the verb beside the settings of `cls`; each may be repeated. Raises `RequestError`."""
        lists = [f.name for f in dataclasses.fields(cls) if isinstance(f.default, tuple)]
        self.grid = {name[5:]: "" for name in _grid_flags(argv)} if "grid" in keys(cls) else {}
        given = _read(argv, [*keys(cls), *(f"grid.{name}" for name in self.grid)], {*lists, "config", "data", *own})
        for name in given.keys() & {*lists, "config", "data"}:
            if not all(given[name]):
                raise RequestError(f"--{name} needs a value")
        self.cls = cls
        self.grid = {name: given[f"grid.{name}"] for name in self.grid}
        self.help, self.dry_run = "help" in given, "dry_run" in given
        self.own: Mapping[str, list[str]] = {name: given.get(name, []) for name in own}
        self._recipes, self._data = given.get("config", ["quick"]), given.get("data", [""])[-1]
        self._print = given.get("print_config")
        self.settings = {key: text for key, text in given.items() if key in keys(cls)}
        for name in lists:
            if text := given.get(name, [""])[-1]:
                self.settings[name] = text if text.startswith("[") else f"[{text}]"

    def config(self, over: Mapping[str, Any] = MappingProxyType({})) -> Any:
        """The config: settings `over` those of recipes, and what the flags say over all. Raises `RequestError`."""
        known = keys(self.cls)
        settings: dict[str, Any] = {}
        for name in self._recipes:  # a recipe is one experiment, study grid included; a run is one point of it
            recipe = read_recipe(name, keys(SweepConfig))
            settings = _with(settings, {key: value for key, value in recipe.items() if key in known}, f"{name}: ")
        settings = _with(settings, over, "")
        if self._data:
            settings |= {f"data.{key}": value for key, value in dataclasses.asdict(data_recipe(self._data)).items()}
        settings = _with(settings, self.settings, "--")
        grid = self._grid(settings.pop("grid", None) or {})
        values = typed(self.cls, settings) | ({"grid": grid} if grid else {})
        data = build(DataConfig, values.get("data", {}))
        _refuse_unused(data, {key[5:] for key in self.settings if key.startswith("data.")}, "data.")
        if self._print is not None:
            _print_config(self.cls, values, self._print.split(","))
        return build(self.cls, values)

    def _grid(self, asked: Any) -> dict[str, tuple[Any, ...]]:
        """The further axes: those of a recipe or of ``--grid``, without settings that a flag fixes, and those of flags
        over them."""
        found, over = (axes(one, RunConfig, _AXES) for one in (asked, self.grid))
        if both := next((key for key in over if key in self.settings), None):
            raise RequestError(f"--{both} and --grid.{both} exclude each other: give one of them")
        return {key: values for key, values in found.items() if key not in self.settings} | over


_AXES = {"width": "--widths", "lr": "--lrs", "param": "--params", "seed": "--seeds"}


def _grid_flags(argv: Sequence[str]) -> list[str]:
    tokens = (token.partition("=")[0] for token in argv)
    return list(dict.fromkeys(token[2:] for token in tokens if token.startswith("--grid.")))


def _with(settings: Mapping[str, Any], later: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings with `later` ones over them, of which some take others' place. Raises `RequestError`."""
    said = [key for key in ("steps", "epochs") if later.get(key) not in (None, "null")]
    if len(said) > 1:
        raise RequestError(f"{where}steps and {where}epochs exclude each other: give one")
    gone = {"steps": {"epochs"}, "epochs": {"steps"}}.get(said[0], set()) if said else set()
    if later.keys() & {"data.path", "data.format", "data.validation_fraction"}:
        gone |= {f"data.{key}" for key in FOUND}
    return {key: value for key, value in settings.items() if key not in gone} | dict(later)


def _print_config(cls: type, values: dict[str, Any], how: list[str]) -> NoReturn:
    """As jsonargparse does it, of which ``--help`` speaks."""
    if unknown := [word for word in how if word not in ("", "skip_default", "skip_null")]:
        raise RequestError(f"--print_config: expected skip_default or skip_null, got {unknown[0]!r}")
    parser = settings_parser(cls)
    whole = parser.parse_object(values)
    print(parser.dump(whole, skip_default="skip_default" in how, skip_none="skip_null" in how), end="")
    raise SystemExit(0)


def _read(argv: Sequence[str], once: Collection[str], repeated: Collection[str]) -> dict[str, Any]:
    """The texts of flags; of those that may be `repeated` all, empty where there is none. Raises `RequestError`."""
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False, argument_default=argparse.SUPPRESS
    )  # fmt: skip
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("--print_config")
    for key in once:
        if key not in repeated:
            parser.add_argument(f"--{key}", dest=key)
    for key in repeated:
        parser.add_argument(f"--{key}", dest=key, nargs="?", const="", action="append")
    try:
        given, rest = parser.parse_known_args(list(_joined(argv)))
    except argparse.ArgumentError as error:
        raise RequestError(f"{error.argument_name}: {error.message}") from None
    if rest:
        _refuse_unrecognized(rest, {*once, *repeated, "help", "dry_run", "print_config"})
    return vars(given)


def _refuse_unrecognized(rest: Sequence[str], known: Collection[str]) -> NoReturn:
    """Raises `RequestError` for what a parser left over; of a flag with the nearest of those that are `known`."""
    for token in rest:
        if token.startswith("--"):
            name = token.removeprefix("--").partition("=")[0]
            reject_unknown(name, known, f"--{name}")
    raise RequestError(f"unrecognized arguments: {' '.join(rest)}")


def _joined(argv: Sequence[str]) -> Iterator[str]:
    """The same with ``--key=value`` where argparse would take a value that begins with a minus sign for a flag."""
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        if token == "--print_config":
            token += "="
        elif token.startswith("--") and "=" not in token and tokens and re.match(r"-[\d.]", tokens[0]):
            token += f"={tokens.pop(0)}"
        yield token


def _refuse_unused(data: DataConfig, flags: Collection[str], section: str) -> None:
    """Raises `RequestError` for the first setting that is given and that the source has no use for.

    Only requests are held to it: what a run was once made with reads back. A recipe may say how its source would be
    streamed.
    """
    idle = unused(dataclasses.asdict(data))
    for name, user in idle.items():
        if name in flags or (name not in STREAMING and getattr(data, name) != getattr(DataConfig, name)):
            key = f"--{section}{name}" if name in flags else f"the recipe's key {section}{name}"
            hint = "name the file itself, --data FILE" if name == "path" else "leave it out"
            raise RequestError(f"{key} is for {user}, and not for {data.name} (format {data.format}): {hint}")
    if data.mode == "stream" and "tokens" in flags:
        raise RequestError(f"--{section}tokens is for prepared text: a stream goes on for --steps")


# ---------------------------------------------------------------------------------------------------------------------
# Sources


@dataclasses.dataclass(frozen=True)
class _Preparation(DataConfig):
    vocab_size: int | None = None
    """Entries of a tokenizer that is trained (--tokenizer bpe)."""


FOUND = ("d_in", "n_classes", "n_train")
"""Settings of a source that its files say."""
STREAMING = {"mode", "lanes", "era", "write_through", "stall_seconds"}
"""Settings of a source that say nothing about prepared shards."""


def parse_source(verb: str, argv: Sequence[str]) -> tuple[DataConfig, int | None]:
    """The data source that `argv` asks of `verb`, ``SOURCE [--KEY VALUE ...]``, and ``--vocab_size``.

    Raises `RequestError`; ``--help`` prints and exits.
    """
    source, flags = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("", argv)
    given = _read(flags, [key for key in keys(_Preparation) if key not in STREAMING], ())
    recipe = data_recipe(source) if source else DataConfig()
    if given.pop("help", False):
        _print_source_help(verb, recipe)
    if not source:
        raise RequestError(f"pipeline {verb}: name a source ({', '.join(shipped('data'))}), a file or a folder")
    values = {key: getattr(recipe, key) for key in keys(DataConfig) if key not in STREAMING} | typed(
        _Preparation, given
    )
    vocab_size = values.pop("vocab_size", None)
    config = build(DataConfig, values)
    _refuse_unused(config, given.keys(), "")
    config.check()
    if vocab_size is not None and config.tokenizer != "bpe":
        raise RequestError("--vocab_size is for --tokenizer bpe: this source has a tokenizer")
    return config, vocab_size


def _print_source_help(verb: str, recipe: DataConfig) -> NoReturn:
    import jsonargparse

    parser = jsonargparse.ArgumentParser(
        prog=f"pipeline {verb} SOURCE",
        description="SOURCE: a data recipe's name, a YAML, a text file or glob, or a prepared folder. "
        "Flags go over what it says.",
    )
    settings_parser(_Preparation, parser, skip=STREAMING)
    parser.set_defaults({key: getattr(recipe, key) for key in keys(DataConfig) if key not in STREAMING})
    parser.print_help()
    raise SystemExit(0)
