"""YAML as people mean it: a key counts once, ``010`` and ``1:30`` are no numbers, and no file grows when it is read."""

import functools
import re
from pathlib import Path
from typing import Any

import yaml

_DEEPEST, _LARGEST = 50, 100_000
"""Levels of a document, and its nodes once every alias is written out."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Plain values. YAML 1.1 reads 010 as 8 and 1:30 as 90; here both are text."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name in seen and name is not None and key.tag != _MERGE:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


class _RecipeLoader(_Loader):
    """The same for files that people write: ``1e-3`` is a number, and a date is text."""


_MERGE = "tag:yaml.org,2002:merge"
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$|[-+]?0x[0-9a-fA-F_]+$")
_FLOAT = re.compile(
    r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?$|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"
    r"|[-+]?\.[0-9_]+(?:[eE][-+]?[0-9]+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)


def _resolve(loader: Any, kind: str, pattern: "re.Pattern[str] | None") -> None:
    tag = f"tag:yaml.org,2002:{kind}"
    loader.yaml_implicit_resolvers = {
        first: [(known, how) for known, how in resolvers if known != tag]
        for first, resolvers in loader.yaml_implicit_resolvers.items()
    }
    if pattern is not None:
        loader.add_implicit_resolver(tag, pattern, list("-+0123456789."))


_resolve(_Loader, "int", _INT)
_resolve(_RecipeLoader, "int", _INT)
_resolve(_RecipeLoader, "float", _FLOAT)
_resolve(_RecipeLoader, "timestamp", None)


def load_yaml(path: Path) -> Any:
    """What a YAML file holds, as plain values. Raises `OSError`, and `yaml.YAMLError` for what is none."""
    return _load(path.read_bytes(), _Loader)


def load_entries(path: Path) -> Any:
    """`load_yaml` of a file that holds a mapping, entry by entry, each of which is read once for all files that share
    its text: the runs of a study share nearly all. Containers are shared as well: not to be changed."""
    settings: dict[str, Any] = {}
    try:
        for entry in _ENTRY.split(path.read_bytes().removesuffix(b"\n")):
            key, value = _entry(entry + b"\n")
            if key in settings:
                return load_yaml(path)  # which says what is wrong, and where
            settings[key] = value
    except (ValueError, yaml.YAMLError):  # no entries, or none that can be read alone
        return load_yaml(path)
    return settings


_ENTRY = re.compile(rb"\n(?=[A-Za-z_])")


@functools.lru_cache(maxsize=4096)
def _entry(text: bytes) -> tuple[str, Any]:
    content = _load(text, _Loader)
    if not isinstance(content, dict):
        raise ValueError("no entry")
    [found] = content.items()
    return found


def parse_recipe(text: str | bytes) -> Any:
    """What the text of a recipe, or of a flag, holds. Raises `yaml.YAMLError`."""
    return _load(text, _RecipeLoader)


def _load(text: str | bytes, loader: Any) -> Any:
    try:
        _require_small(text, loader)
        return yaml.load(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        what = " ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark or error.context_mark
        raise yaml.YAMLError(f"{what} (line {mark.line + 1})" if mark else what) from None
    except RecursionError:
        raise yaml.YAMLError(f"more than {_DEEPEST} levels") from None
    except (ValueError, OverflowError) as error:  # a number or a date that Python does not know, bytes that are no text
        raise yaml.YAMLError(str(error)) from None


def _require_small(text: str | bytes, loader: Any) -> None:
    """Without making the nodes: those that an alias stands for count as often as it occurs."""
    depth, total = 0, 0
    sizes: dict[str | None, int] = {}
    open_anchors: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_anchors):
                raise yaml.YAMLError(f"*{event.anchor} lies within itself")
            total += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.NodeEvent):
            total += 1
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                open_anchors.append((event.anchor, total - 1))
            elif event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
            anchor, before = open_anchors.pop()
            if anchor:
                sizes[anchor] = total - before
        if depth > _DEEPEST or total > _LARGEST:
            raise yaml.YAMLError(f"more than {_DEEPEST} levels, or {_LARGEST} values once aliases are written out")


def dump_yaml(content: Any) -> str:
    """Plain values as YAML, keys in their order."""
    text: str = yaml.dump(content, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)
    return text
