"""Recipes: YAML files by name or path -> settings -> config, strict about keys and types.

Long: every way from a YAML or a flag to a setting goes through here.
"""

import copy
import dataclasses
import difflib
import functools
import re
import types
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from pipeline.config import DataConfig, DiagnosticsConfig, ModelConfig, MultConfig, RunConfig, WandbConfig
from pipeline.errors import RequestError
from pipeline.files import expanded, matching, why_none
from pipeline.ranges import LIKE, is_power, number, spelled_out
from pipeline.strict_yaml import load_entries, parse_recipe

T = TypeVar("T")

# Top-level key of a run's config.yaml that says what ran, beside what was asked for.
RECORDED_KEY = "recorded"


def shipped_folder(folder: str) -> Path:
    """A folder of what is fed to the code: inside the package in a wheel, beside it in a checkout."""
    packaged = Path(__file__).parent / "shipped" / folder
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / folder


def shipped(folder: Literal["model_configs", "data", "slurm/profiles"]) -> dict[str, Path]:
    """The shipped YAML files of a folder by name."""
    return {path.stem: path for path in sorted(shipped_folder(folder).glob("*.yaml"))}


def load_run(path: Path) -> tuple[RunConfig, dict[str, Any]]:
    """The config in a run directory's config.yaml, as this program wrote it: no flags, hence fast; and what it recorded
    beside the settings.

    Raises `RequestError` for a file that does not hold a run's settings.
    """
    try:
        settings = load_entries(path)
        recorded = copy.deepcopy(dict(settings.pop(RECORDED_KEY, None) or {}))
        nested = {"model": ModelConfig, "mult": MultConfig, "data": DataConfig}
        settings |= {name: cls(**settings[name]) for name, cls in nested.items()}
        settings["diagnostics"] = DiagnosticsConfig(**settings.get("diagnostics", {}))  # older runs have none
        if isinstance(wandb := settings["wandb"], dict):  # older runs have the mode alone
            settings["wandb"] = WandbConfig(**wandb | {"tags": tuple(wandb["tags"])})
        lists = {"betas": tuple(settings["betas"])}
        lists |= {key: tuple(settings.get(key, ())) for key in ("mirrors", "branch_steps")}  # older runs have none
        return RunConfig(**settings | lists), recorded
    except RequestError:
        raise
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{path} is not a run's config.yaml ({_one_line(error)})") from None


def read_recipe(name: str, known: Collection[str]) -> dict[str, Any]:
    """What a recipe, by its name or path, says of the settings `known`, by dotted keys. Raises `RequestError`."""
    path = _recipe_path(name)
    sections = {key.partition(".")[0] for key in known if "." in key}
    content = _mapping(path, "a recipe")
    content.pop(RECORDED_KEY, None)
    if isinstance(content.get("data"), str):
        content["data"] = dataclasses.asdict(data_recipe(content["data"]))
    if isinstance(content.get("wandb"), str):
        content["wandb"] = {"mode": content["wandb"]}
    settings: dict[str, Any] = {}
    for key, value in content.items():
        nested = isinstance(value, dict) and key not in known
        if key in sections and not nested:
            raise RequestError(f"{path}: {key} is a section of settings: expected a mapping, got {_said(value)}")
        section = {f"{key}.{inner}": entry for inner, entry in value.items()} if nested else {key: value}
        for dotted in section:
            reject_unknown(str(dotted), known, "recipe")
        settings |= section
    return settings


def _mapping(path: Path, what: str) -> dict[Any, Any]:
    """The mapping that a YAML file holds. Raises `RequestError`."""
    content = _read(path, path)
    if not isinstance(content, dict):
        raise RequestError(f"{path}: {what} is a mapping of keys to values")
    return content


def _recipe_path(name: str) -> Path:
    known = shipped("model_configs")
    path = expanded(name, "--config")
    if Path(path).is_file():
        return Path(path)
    if name in known:
        return known[name]
    near = difflib.get_close_matches(Path(name).stem, known, n=1)
    hint = f": did you mean {near[0]}?" if near else f" ({', '.join(known)})"
    why = "a folder, not a YAML file" if Path(path).is_dir() else "no such file"
    raise RequestError(f"--config {name}: {why}, and no recipe of that name{hint}")


def data_recipe(value: str) -> DataConfig:
    """What ``data: VALUE`` stands for: a data recipe's name, a YAML file, a prepared folder, vectors that are known by
    the names of their files, or a text file or glob."""
    known, value = shipped("data"), expanded(value, "--data")
    path = known.get(value, Path(value))
    if path.suffix.lower() in (".yaml", ".yml") and path.is_file():
        section = _mapping(path, "a data recipe")
        for key in section:
            reject_unknown(str(key), keys(DataConfig), str(path))
        return build(DataConfig, typed(DataConfig, section, f"{path}: "))
    if (path / "manifest.json").is_file():
        return DataConfig(name=re.sub(r"[^\w.+-]", "_", path.resolve().name), format="shards", path=value)
    from pipeline.vectors.find import knows  # numpy and pyarrow, for which --help and recipes' names need not wait

    vectors = knows(value)
    if not matching(value) and not vectors:
        near = difflib.get_close_matches(value, known, n=1)
        hint = f": did you mean {near[0]}?" if near else f" ({', '.join(known)})"
        recipes = "" if path.is_dir() else f", and no data recipe of that name{hint}"
        raise RequestError(f"--data {value}: {why_none(value)}{recipes}")
    # "books/*.jsonl.zst" is named after its folder, "corpus.txt" after itself
    stem = re.sub(r"[^\w+-]", "_", path.name.partition(".")[0]).strip("_")
    stem = stem or re.sub(r"[^\w+-]", "_", path.parent.name) or "text"
    return DataConfig(
        name=stem.encode()[:100].decode(errors="ignore"), format="vectors" if vectors else "text", path=value
    )


def _defaults(cls: Any) -> dict[str, Any]:
    return {f.name: f.default for f in dataclasses.fields(cls)}


def keys(cls: type) -> list[str]:
    """All settings of a config class, nested ones dotted."""
    found: list[str] = []
    for name, default in _defaults(cls).items():
        nested = dataclasses.is_dataclass(default)
        found += [f"{name}.{f.name}" for f in dataclasses.fields(default)] if nested else [name]
    return found


_ELSEWHERE = {
    "batch_size": "global_batch", "batch": "global_batch", "train_batch_size": "global_batch",
    "global_batch_size": "global_batch", "micro_batch_size": "micro_batch", "per_device_batch_size": "micro_batch",
    "per_device_train_batch_size": "micro_batch", "learning_rate": "lr", "learning_rates": "lrs", "peak_lr": "lr",
    "max_lr": "lr", "hidden_size": "width", "d_model": "width", "n_embd": "width", "parameterization": "param",
    "parametrization": "param", "max_steps": "steps", "num_steps": "steps", "train_steps": "steps",
    "num_warmup_steps": "warmup_steps", "lr_scheduler": "schedule", "scheduler": "schedule",
    "lr_scheduler_type": "schedule", "sequence_length": "seq_len", "block_size": "seq_len",
    "context_length": "seq_len", "max_seq_len": "seq_len", "gradient_clip": "grad_clip",
    "gradient_clip_val": "grad_clip", "clip_grad": "grad_clip", "max_grad_norm": "grad_clip", "gpus": "devices",
    "num_gpus": "devices", "nodes": "num_nodes", "output_dir": "out", "out_dir": "out", "random_seed": "seed",
    "num_layers": "model.n_layer", "depth": "model.n_layer", "num_workers": "workers",
}  # fmt: skip
"""What settings are called in other programs -> here."""


def reject_unknown(key: str, known: Collection[str], where: str) -> None:
    """Raises `RequestError` naming the nearest known key, if `key` is none of them."""
    if key not in known:
        leaf = {name.split(".")[-1]: name for name in known}
        spelled = key.replace("-", "_")
        same = [name for name in (spelled, _ELSEWHERE.get(spelled, "")) if name in known]
        near = (
            same
            or [name for name in sorted(known) if name.startswith(key)]
            or difflib.get_close_matches(key, known, n=1)
            or difflib.get_close_matches(key.split(".")[-1], leaf, n=1)
        )
        hint = f", did you mean {near[0] if near[0] in known else leaf[near[0]]}?" if near else ""
        raise RequestError(f"{where}: unknown key {key}{hint}")


PATHS = ("out", "profile", "setup", *(f"{section}{name}" for section in ("", "data.") for name in
         ("path", "tokenizer", "write_through")))  # fmt: skip
"""Settings that are paths, or may be."""


def typed(cls: type, settings: Mapping[str, Any], where: str | Mapping[str, str] = "--") -> dict[str, Any]:
    """Values as YAML or a flag gives them, by dotted keys, in the types of the fields of `cls`, nested as these are;
    paths expanded.

    Raises `RequestError` that names the first key, after `where` (all keys', or each key's own), whose value is of
    another type.
    """
    import jsonargparse

    parser = _parser(cls)
    values: dict[str, Any] = {}
    for key, value in settings.items():
        section, _, name = key.rpartition(".")
        kind = _field_type(cls, key)
        flag = f"{where if isinstance(where, str) else where.get(key, '--')}{key}"
        try:
            plain = _plain(kind, value)
            parsed = parser.parse_object({section: {name: plain}} if section else {name: plain}, defaults=False)
        except RequestError as error:
            raise RequestError(f"{flag}: {error}") from None
        except (jsonargparse.ArgumentError, TypeError, ValueError, yaml.YAMLError) as error:
            words = _type_in_words(kind) or _one_line(error)
            listed = isinstance(value, str) and typing.get_origin(kind) is tuple
            got = _said(value.strip("[]") if listed else value)
            raise RequestError(f"{flag}: expected {words}, got {got}") from None
        found = expanded(parsed[key], flag) if key in PATHS else parsed[key]
        (values.setdefault(section, {}) if section else values)[name] = found
    return values


def _plain(kind: Any, value: Any) -> Any:
    """A value with its texts read as YAML where `kind` is no text, powers and ranges spelled out. Raises `TypeError`,
    `yaml.YAMLError`, `RequestError`.

    jsonargparse would do so too, but takes null for unset, and 010 and 1:30 for numbers.
    """
    members = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    words = {word for member in members if typing.get_origin(member) is Literal for word in typing.get_args(member)}
    listed = typing.get_origin(kind) is tuple
    if isinstance(value, str) and str not in members and value not in words:
        if float in members and is_power(value):
            return number(value)
        value = parse_recipe(value)
        if listed and isinstance(value, str) and str not in typing.get_args(kind):
            value = [value]
        if isinstance(value, str) and value not in words:
            raise TypeError
    if value is None and type(None) not in members:
        raise TypeError
    if isinstance(value, list) and listed:
        inner, *_ = typing.get_args(kind)
        return [_plain(inner, one) for entry in value for one in spelled_out(entry)]
    return value


def axes(
    asked: Mapping[str, Any] | str, cls: type, own: Mapping[str, str], where: str = "--grid."
) -> dict[str, tuple[Any, ...]]:
    """Further axes of a grid, as a recipe or its text gives them: settings of `cls` by their keys, or by the last parts
    of these where one setting has it, with the values that each takes; or ``data``, with what ``--data`` takes. `own`:
    settings that are axes by themselves, and the flags of these.

    Raises `RequestError` that names the first key, after `where`, that is unknown or has a value of another type.
    """
    found: dict[str, tuple[Any, ...]] = {}
    known = keys(cls)
    asked = _read(asked, f"{where.rstrip('.')} {asked}") if isinstance(asked, str) else asked
    if not isinstance(asked, Mapping):
        raise RequestError(f"{where.rstrip('.')}: expected a mapping of settings to lists of values, got {asked!r}")
    for name, values in asked.items():
        key = str(name) if name == "data" else named_setting(str(name), known, where)
        if key in own:
            raise RequestError(f"{where}{name}: say {own[key]}")
        if key in found:
            raise RequestError(f"{where}{name}: {key} is given twice")
        if isinstance(values, str):
            listed = key != "data" and typing.get_origin(_field_type(cls, key)) is tuple
            whole = values.startswith("[[" if listed else "[")
            values = _read(values if whole else f"[{values}]", f"{where}{name} {values}")
        if not isinstance(values, list | tuple):
            raise RequestError(f"{where}{name}: expected a list of values, got {values!r}")
        if key == "data":
            found[key] = tuple(data_recipe(str(value)) for value in values)
            continue
        section, _, leaf = key.rpartition(".")
        try:
            spelled = [one for entry in values for one in spelled_out(entry)]
        except RequestError as error:
            raise RequestError(f"{where}{name}: {error}") from None
        each = [typed(cls, {key: value}, where) for value in spelled]
        found[key] = tuple(one[section][leaf] if section else one[leaf] for one in each)
    return found


def _read(source: str | Path, where: object) -> Any:
    try:
        return parse_recipe(source.read_bytes() if isinstance(source, Path) else source)
    except (OSError, yaml.YAMLError) as error:
        raise RequestError(f"{where} cannot be read as YAML: {_one_line(error)}") from None


def named_setting(name: str, known: Collection[str], where: str) -> str:
    """The setting that goes by that key, or by its last part alone. Raises `RequestError` that names it after `where`
    and says what it could be."""
    found = [name] if name in known else [key for key in known if key.endswith(f".{name}")]
    if len(found) > 1:
        raise RequestError(f"{where}{name}: could be {' or '.join(found)}")
    if not found:
        reject_unknown(name, known, where.rstrip(". "))
    return found[0]


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """The config that `typed` values make of the defaults of `cls`. Raises `RequestError`."""
    defaults = _defaults(cls)
    nested = {name: value for name, value in values.items() if dataclasses.is_dataclass(defaults[name])}
    sections = {name: dataclasses.replace(defaults[name], **value) for name, value in nested.items()}
    return cls(**{**values, **sections})


def settings_parser(cls: type) -> Any:
    """jsonargparse's parser of the fields of a config class."""
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, as_group=False)
    return parser


_parser = functools.cache(settings_parser)


@functools.cache
def _field_type(cls: Any, key: str) -> Any:
    for name in key.split("."):
        cls = typing.get_type_hints(cls)[name]
    return cls


def _said(value: object) -> str:
    return "null" if value is None else repr(str(value))


def _one_line(text: object) -> str:
    return re.sub(r"\s*\n\s*", " ", str(text)).strip()


def _type_in_words(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(_type_in_words(member) for member in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        inner, *_ = typing.get_args(kind)
        if typing.get_origin(inner) is Literal:
            return _type_in_words(inner)
        if (many := typing.get_args(kind))[-1] is not Ellipsis:
            return f"{len(many)} numbers with a comma"
        return "a list" if inner is str else f"numbers such as {LIKE}"
    if typing.get_origin(kind) is Mapping:
        return "a mapping of names to values"
    return {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "null"}.get(kind, "")
