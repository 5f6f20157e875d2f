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
from pipeline.entries.kinds import KINDS
from pipeline.entries.texts import require_readable, unused
from pipeline.entries.vectors import VECTORS
from pipeline.errors import RequestError
from pipeline.files import expanded, matching
from pipeline.recipes import (
    axes,
    build,
    data_recipe,
    keys,
    read_recipe,
    reject_unknown,
    settings_parser,
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
        given = list(_joined(sys.argv[1:] if args is None else args))
        known = {flag.lstrip("-") for flag in self._option_string_actions}
        try:
            parsed, rest = self.parse_known_args(given)
        except RequestError:  # a flag that is misspelled, before what is missing without it
            names = {token: token.removeprefix("--").partition("=")[0] for token in given if token.startswith("--")}
            for token, name in names.items():
                if not any(flag.startswith(name) for flag in known):
                    _refuse_unrecognized([token], known)
            raise
        if rest:
            _refuse_unrecognized(rest, known)
        return parsed

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{self.prog}: {_plainly(message)} (see {self.prog} --help)")


def _plainly(message: str) -> str:
    """What argparse says of a switch with a value, as people would."""
    return message.replace("ignored explicit argument", "takes no value, got")


# ---------------------------------------------------------------------------------------------------------------------
# Runs and studies


def parse(verb: Literal["train", "sweep"], argv: Sequence[str]) -> tuple[Any, bool]:
    """The config that `argv` asks of `verb` (`RunConfig` or `SweepConfig`), and whether ``--dry_run`` was given.

    ``--config`` files apply in order over the defaults (the recipe `quick` when none is given), flags over all of them.
    Raises `RequestError`; ``--help`` and ``--print_config`` print and exit.
    """
    cls = RunConfig if verb == "train" else SweepConfig
    flags = Flags(cls, argv)
    if flags.help is not None:
        from pipeline.cli.settings_help import print_help

        print_help(verb, flags.help)
    return flags.config(), flags.dry_run


def taken(argv: Sequence[str], switch: str) -> tuple[bool, list[str]]:
    """Whether a command line has that switch of a verb's own, and the rest of it. Raises `RequestError`."""
    if valued := next((word for word in argv if word.startswith(f"{switch}=")), None):
        raise RequestError(f"{valued}: {switch} takes no value")
    return switch in argv, [word for word in argv if word != switch]


class Flags:
    """What a command line asks of a run's or a study's settings, before their types are known to be right."""

    def __init__(self, cls: type[C], argv: Sequence[str], own: Collection[str] = ()) -> None:
        """`own` are flags of the verb beside the settings of `cls`; each may be repeated. Raises `RequestError`."""
        lists = listed(cls)
        self.grid = {name[5:]: "" for name in _grid_flags(argv)} if "grid" in keys(cls) else {}
        grid = [f"grid.{name}" for name in self.grid]
        given = read_flags(argv, [*keys(cls), *grid], {"config", "data", "wandb", *own}, lists)
        for name in given.keys() & {*lists, "config", "data", "wandb"}:
            if not all(given[name]):
                raise RequestError(f"--{name} needs a value")
        self.cls = cls
        self.grid = {name: given[f"grid.{name}"] for name in self.grid}
        self.help: str | None = given.get("help")
        """What help is asked for: ``""`` the short one; None: none."""
        self.dry_run = "dry_run" in given
        self.own: Mapping[str, list[str]] = {name: given.get(name, []) for name in own}
        self._recipes, self._data = given.get("config", []), given.get("data", [""])[-1]
        self._print = given.get("print_config")
        if mode := given.pop("wandb", None):
            if "wandb.mode" in given:
                raise RequestError("--wandb and --wandb.mode are one setting: give one of them")
            given["wandb.mode"] = mode[-1]
        self.settings = {key: text for key, text in given.items() if key in keys(cls)}
        for name in lists:
            if text := given.get(name, [""])[-1]:
                commas = re.sub(r"\s*[,;\s]\s*", ",", text.strip())
                self.settings[name] = text if text.startswith("[") else f"[{commas}]"

    def config(self, over: Mapping[str, Any] = MappingProxyType({})) -> Any:
        """The config: settings `over` those of recipes, and what the flags say over all. Raises `RequestError`."""
        known = keys(self.cls)
        settings: dict[str, Any] = {}
        said: dict[str, str] = {}
        for name in self._recipes or [self._example()]:  # a recipe is one experiment, study grid included; a run is
            recipe = {key: value for key, value in read_recipe(name, keys(SweepConfig)).items() if key in known}  # one
            settings, said = _with(settings, recipe, f"{name}: "), said | dict.fromkeys(recipe, f"{name}: ")  # point
        settings = _with(settings, over, "")
        flags = self.settings | self._lists()
        if self._data:
            settings |= {f"data.{key}": value for key, value in dataclasses.asdict(data_recipe(self._data)).items()}
        elif (path := flags.get("data.path")) and _reads_no(settings):
            found = data_recipe(path)
            kept = {key: value for key, value in settings.items() if key.partition(".")[2] not in _OF_THE_HUB}
            settings = kept | {"data.name": found.name, "data.format": found.format}
        settings, said = _with(settings, flags, "--"), said | dict.fromkeys(flags, "--")
        grid = self._grid(settings.pop("grid", None) or {})
        values = typed(self.cls, settings, said) | ({"grid": grid} if grid else {})
        data = build(DataConfig, values.get("data", {}))
        refuse_unused(data, {key[5:] for key in self.settings if key.startswith("data.")}, "data.")
        if data.format == "text" and data.path:
            require_readable([str(path) for path in matching(data.path)], data.kind, data.text_field)
        if self._print is not None:
            _print_config(self.cls, values, self._print.split(","))
        return build(self.cls, values)

    def _example(self) -> str:
        """The recipe of one who names none: of the kind of model that is asked for, or that takes the data."""
        asked = [KINDS[name] for name in [self.settings.get("model.kind", "")] if name in KINDS]
        path = self._data or self.settings.get("data.path", "")
        takes = "vectors" if path and data_recipe(path).format in VECTORS else "text"
        return next(kind.example for kind in [*asked, *KINDS.values()] if asked or kind.takes == takes)

    def _lists(self) -> dict[str, str]:
        """Of a study the list that a flag of one value stands for, such as ``--width 512``, over that of a recipe."""
        lists = {flag[2:]: key for key, flag in _AXES.items() if key in self.settings and flag[2:] in keys(self.cls)}
        if both := next((name for name in lists if name in self.settings), None):
            raise RequestError(f"--{lists[both]} and --{both} exclude each other: give one of them")
        return {name: f"[{self.settings[key]}]" for name, key in lists.items()}

    def _grid(self, asked: Any) -> dict[str, tuple[Any, ...]]:
        """The further axes: those of a recipe or of ``--grid``, without settings that a flag fixes, and those of flags
        over them."""
        found, over = (axes(one, RunConfig, _AXES) for one in (asked, self.grid))
        given = self.settings.keys() | ({"data"} if self._data else set())
        if both := next((key for key in over if key in given), None):
            raise RequestError(f"--{both} and --grid.{both} exclude each other: give one of them")
        return {key: values for key, values in found.items() if key not in given} | over


def listed(cls: Any, section: str = "") -> list[str]:
    """The settings that have several values, of sections too, dotted."""
    found: list[str] = []
    for f in dataclasses.fields(cls):
        if dataclasses.is_dataclass(f.default):
            found += listed(type(f.default), f"{f.name}.")
        elif isinstance(f.default, tuple):
            found.append(f"{section}{f.name}")
    return found


_AXES = {"width": "--widths", "lr": "--lrs", "param": "--params", "seed": "--seeds", "data.name": "--grid.data"}


_OF_THE_HUB = {"repo", "revision", "files", "file_seed", "license", "citation"}


def _reads_no(settings: Mapping[str, Any]) -> bool:
    """Whether the source of these settings reads no file of a path, so that one who gives a path wants another."""
    section = {"format": DataConfig.format, "repo": "", "path": "", "mode": "prepared"}
    section |= {key[5:]: value for key, value in settings.items() if key.startswith("data.")}
    return bool(section["repo"]) or "path" in unused(section)


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


def read_flags(
    argv: Sequence[str], once: Collection[str], repeated: Collection[str] = (), listed: Collection[str] = ()
) -> dict[str, Any]:
    """The texts of flags; of those that may be `repeated` all, empty where there is none; `listed` ones may have
    several values. Raises `RequestError`."""
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False, argument_default=argparse.SUPPRESS
    )  # fmt: skip
    parser.add_argument("-h", "--help", nargs="?", const="")
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("--print_config")
    for key in once:
        if key not in repeated and key not in listed:
            parser.add_argument(f"--{key}", dest=key)
    for key in repeated:
        parser.add_argument(f"--{key}", dest=key, nargs="?", const="", action="append")
    for key in listed:
        parser.add_argument(f"--{key}", dest=key, nargs="*", action="append")
    try:
        given, rest = parser.parse_known_args(list(_joined(argv)))
    except argparse.ArgumentError as error:
        raise RequestError(f"{error.argument_name}: {_plainly(error.message)}") from None
    if rest:
        _refuse_unrecognized(rest, {*once, *repeated, *listed, "help", "dry_run", "print_config"})
    return {key: [",".join(one) for one in found] if key in listed else found for key, found in vars(given).items()}


def _refuse_unrecognized(rest: Sequence[str], known: Collection[str]) -> NoReturn:
    """Raises `RequestError` for what a parser left over; of a flag with the nearest of those that are `known`."""
    for token in rest:
        if token.startswith("--"):
            name = token.removeprefix("--").partition("=")[0]
            reject_unknown(name, known, f"--{name}")
    name, equals, value = rest[0].lstrip("-").partition("=")
    if equals and name in known:
        raise RequestError(f"unrecognized arguments: {' '.join(rest)}: say --{name} {value}")
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


FOUND = ("d_in", "n_classes", "n_train")
"""Settings of a source that its files say."""
STREAMING = {"mode", "lanes", "era", "write_through", "stall_seconds"}
"""Settings of a source that say nothing about prepared shards."""


def refuse_unused(data: DataConfig, flags: Collection[str], section: str) -> None:
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
