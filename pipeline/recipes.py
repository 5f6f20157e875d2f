"""Recipes and flags -> config: YAML files by name or path, merged in order, strict; then command-line flags."""

import argparse
import dataclasses
import difflib
import functools
import glob
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from pipeline.config import DataConfig, DiagnosticsConfig, ModelConfig, MultConfig, RunConfig, SweepConfig
from pipeline.errors import RequestError
from pipeline.validation import validate_source

# A recipe is one experiment, study grid included; `train` runs one point of it and leaves the grid alone.
GRID_KEYS = {f.name for f in dataclasses.fields(SweepConfig)} - {f.name for f in dataclasses.fields(RunConfig)}

# Top-level key of a run's config.yaml that says what ran, beside what was asked for.
RECORDED_KEY = "recorded"


def shipped_folder(folder: str) -> Path:
    """A folder of what is fed to the code: inside the package in a wheel, beside it in a checkout."""
    packaged = Path(__file__).parent / "shipped" / folder
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / folder


def shipped(folder: Literal["model_configs", "data", "slurm/profiles"]) -> dict[str, Path]:
    """The shipped YAML files of a folder by name."""
    return {path.stem: path for path in sorted(shipped_folder(folder).glob("*.yaml"))}


def parse(verb: Literal["train", "sweep"], argv: Sequence[str]) -> tuple[Any, bool]:
    """The config that `argv` asks of `verb` (`RunConfig` or `SweepConfig`), and whether ``--dry_run`` was given.

    ``--config`` files apply in order over the defaults (the recipe `quick` when none is given), flags over all of them.
    Raises `RequestError`; ``--help`` and ``--print_config`` print and exit.
    """
    import jsonargparse

    cls = RunConfig if verb == "train" else SweepConfig
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    mode = f"recipe_{verb}"
    jsonargparse.set_loader(mode, functools.partial(_load, verb=verb), exceptions=(yaml.YAMLError,))
    parser = jsonargparse.ArgumentParser(
        prog=f"pipeline {verb}", parser_mode=mode, exit_on_error=False, allow_abbrev=False, description=cls.__doc__
    )
    parser.add_argument("--config", action="config", help="A recipe by name or path; later ones win (default: quick)")
    parser.add_argument(
        "--dry_run", action="store_true", default=argparse.SUPPRESS, help="Print what would run, and run nothing."
    )
    parser.add_class_arguments(cls, as_group=False)
    try:
        parsed = parser.instantiate_classes(parser.parse_args(_expand(argv, cls)))
    except RequestError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code in (0, None):  # --help, --print_config
            raise
        raise RequestError(_explain(error, cls, argv)) from None
    values = vars(parsed)
    return cls(**{f.name: values[f.name] for f in dataclasses.fields(cls)}), values.get("dry_run", False)


@dataclass(frozen=True)
class _Preparation(DataConfig):
    vocab_size: int | None = None
    """Entries of a tokenizer that is trained (--tokenizer bpe)."""


def parse_source(verb: str, argv: Sequence[str]) -> tuple[DataConfig, int | None]:
    """The data source that `argv` asks of `verb`, ``SOURCE [--KEY VALUE ...]``, and ``--vocab_size``.

    Raises `RequestError`; ``--help`` prints and exits.
    """
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog=f"pipeline {verb} SOURCE", exit_on_error=False, allow_abbrev=False,
        description="SOURCE: a data recipe's name, a YAML, a text file or glob, or a prepared folder. "
        "Flags go over what it says.",
    )  # fmt: skip
    streaming = {"mode", "lanes", "era", "write_through", "stall_seconds"}  # say nothing about prepared shards
    known = {f.name for f in dataclasses.fields(DataConfig)} - streaming
    parser.add_class_arguments(_Preparation, as_group=False, skip=streaming)
    source, flags = (argv[0], argv[1:]) if argv and not argv[0].startswith("--") else ("", argv)
    if not source and "--help" not in flags:
        raise RequestError(f"pipeline {verb}: name a source ({', '.join(shipped('data'))}), a file or a folder")
    for flag in flags:
        if flag.startswith("--"):
            reject_unknown(flag.removeprefix("--").partition("=")[0], known | {"vocab_size", "help"}, flag)
    recipe = _data_recipe(source) if source else DataConfig()
    parser.set_defaults({name: getattr(recipe, name) for name in known})
    try:
        values = vars(parser.parse_args(list(flags)))
    except RequestError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code in (0, None):
            raise
        raise RequestError(_explain(error, _Preparation, flags)) from None
    config = DataConfig(**{name: values[name] for name in known})
    validate_source(config)
    if values["vocab_size"] is not None and config.tokenizer != "bpe":
        raise RequestError("--vocab_size is for --tokenizer bpe: this source has a tokenizer")
    return config, values["vocab_size"]


def load_run(path: Path) -> tuple[RunConfig, dict[str, Any]]:
    """The config in a run directory's config.yaml, as this program wrote it: no flags, hence fast; and what it recorded
    beside the settings.

    Raises `RequestError` for a file that does not hold a run's settings.
    """
    try:
        settings = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        recorded = dict(settings.pop(RECORDED_KEY, None) or {})
        nested = {"model": ModelConfig, "mult": MultConfig, "data": DataConfig}
        settings |= {name: cls(**settings[name]) for name, cls in nested.items()}
        settings["diagnostics"] = DiagnosticsConfig(**settings.get("diagnostics", {}))  # older runs have none
        return RunConfig(**settings | {"betas": tuple(settings["betas"])}), recorded
    except RequestError:
        raise
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{path} is not a run's config.yaml ({_one_line(error)})") from None


def _load(text: str, *, verb: str) -> Any:
    """jsonargparse's loader for this project's YAML: also of single values given as flags, which pass through."""
    from jsonargparse import get_loader

    loaded = get_loader("yaml")(text)
    if not isinstance(loaded, dict):
        return loaded  # a flag's value
    loaded.pop(RECORDED_KEY, None)
    known = _keys(SweepConfig)
    for key, value in loaded.items():
        for name in [f"{key}.{inner}" for inner in value] if isinstance(value, dict) else [key]:
            reject_unknown(name, known | {"data"}, "recipe")
    if isinstance(loaded.get("data"), str):
        loaded["data"] = dataclasses.asdict(_data_recipe(loaded["data"]))
    return {key: value for key, value in loaded.items() if verb != "train" or key not in GRID_KEYS}


def _data_recipe(value: str) -> DataConfig:
    """What ``data: VALUE`` stands for: a data recipe's name, a YAML file, a prepared folder, or a text file or glob."""
    known = shipped("data")
    path = known.get(value, Path(value))
    if path.suffix in (".yaml", ".yml") and path.is_file():
        section = yaml.safe_load(path.read_text())
        if not isinstance(section, dict):
            raise RequestError(f"{path}: a data recipe is a mapping of keys to values")
        for key in section:
            reject_unknown(key, {f.name for f in dataclasses.fields(DataConfig)}, str(path))
        return DataConfig(**section)
    if (path / "manifest.json").is_file():
        return DataConfig(name=re.sub(r"[^\w.+-]", "_", path.resolve().name), format="shards", path=value)
    if not glob.glob(value):
        raise RequestError(f"--data {value}: no such file, and no data recipe of that name ({', '.join(known)})")
    # "books/*.jsonl.zst" is named after its folder, "corpus.txt" after itself
    stem = re.sub(r"[^\w+-]", "_", path.name.partition(".")[0]).strip("_")
    return DataConfig(name=stem or re.sub(r"[^\w+-]", "_", path.parent.name) or "text", format="text", path=value)


def _recipe_path(value: str) -> str:
    known = shipped("model_configs")
    if Path(value).is_file():
        return value
    if value in known:
        return str(known[value])
    raise RequestError(f"--config {value}: no such file, and no recipe of that name ({', '.join(known)})")


def _expand(argv: Sequence[str], cls: type) -> list[str]:
    """Flags as people type them -> as jsonargparse reads them: recipes by name, ``--data NAME``, ``--lrs 1e-3,1e-2``."""
    known = _keys(cls) | {"config", "data", "print_config", "dry_run", "help"}
    lists = {f.name for f in dataclasses.fields(cls) if isinstance(f.default, tuple)}
    recipes: list[str] = []
    data: list[str] = []  # what --data NAME stands for; --data.KEY flags go over it, wherever they stand
    expanded: list[str] = []
    tokens = iter(argv)
    for token in tokens:
        name, equals, value = token.removeprefix("--").partition("=")
        if token.startswith("--"):
            reject_unknown(name, known, f"--{name}")
        if not token.startswith("--") or name not in lists | {"config", "data"}:
            expanded.append(token)
            continue
        value = value if equals else next(tokens, "")
        if not value or value.startswith("--"):
            raise RequestError(f"--{name} needs a value")
        if name == "config":
            recipes += ["--config", _recipe_path(value)]
        elif name == "data":
            section = dataclasses.asdict(_data_recipe(value))
            data = [f"--data.{key}={'null' if entry is None else entry}" for key, entry in section.items()]
        else:
            expanded.append(f"--{name}={value if value.startswith('[') else f'[{value}]'}")
    return [*(recipes or ["--config", _recipe_path("quick")]), *data, *expanded]


def _keys(cls: type) -> set[str]:
    """All settings of a config class, nested ones dotted."""
    keys: set[str] = set()
    for f in dataclasses.fields(cls):
        if dataclasses.is_dataclass(f.default):
            keys |= {f"{f.name}.{inner.name}" for inner in dataclasses.fields(f.default)}
        else:
            keys.add(f.name)
    return keys


def reject_unknown(key: str, known: set[str], where: str) -> None:
    """Raises `RequestError` naming the nearest known key, if `key` is none of them."""
    if key not in known:
        leaf = {name.split(".")[-1]: name for name in known}
        longer = [name for name in sorted(known) if name.startswith(key)]
        near = (
            longer
            or difflib.get_close_matches(key, known, n=1)
            or difflib.get_close_matches(key.split(".")[-1], leaf, n=1)
        )
        hint = f", did you mean {leaf.get(near[0], near[0])}?" if near else ""
        raise RequestError(f"{where}: unknown key {key}{hint}")


def _explain(error: BaseException, cls: type, argv: Sequence[str]) -> str:
    """jsonargparse's complaint as one line in this project's words."""
    text = _one_line(error)
    if key := re.search(r'Parser key "([\w.]+)"', text):
        given = re.search(r"(?:Got|Given) value: (.*)", text)
        value = given[1] if given else _flag_value(key[1], argv)
        words = _type_in_words(_field_type(cls, key[1]))
        if words:
            return f"--{key[1]}: expected {words}" + (f", got {value!r}" if value else "")
    text = re.sub(r"^argument --", "--", text)
    return text[0].lower() + text[1:]


def _one_line(error: BaseException) -> str:
    return re.sub(r"\s*\n\s*", " ", str(error)).strip()


def _flag_value(key: str, argv: Sequence[str]) -> str:
    """What ``--key value`` or ``--key=value`` says, if a flag says it."""
    for token, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = token.partition("=")
        if name == f"--{key}":
            return value if equals else following
    return ""


def _field_type(cls: Any, key: str) -> Any:
    for name in key.split("."):
        cls = typing.get_type_hints(cls).get(name) if dataclasses.is_dataclass(cls) else None
    return cls


def _type_in_words(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(_type_in_words(member) for member in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "a list"
    return {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "null"}.get(kind, "")
