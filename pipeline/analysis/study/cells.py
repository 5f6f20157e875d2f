"""Cells: which settings tell the families of curves of a study apart, beside parameterization, optimizer and loss."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from pipeline.config import RunConfig, counted_settings, default_settings

Settings = Mapping[str, Any]
"""Flat, of a run; what is missing is at its default."""

WIDTH_OF_MODEL = "model_width"
"""Column of a model's width where runs are looked at along another axis."""


def value(settings: Settings, key: str) -> Any:
    """Of a run; the default where it is older than the setting."""
    return settings[key] if key in settings else default_settings().get(key)


def departures(config: RunConfig) -> dict[str, Any]:
    """The settings that count and are not at their default, in the order of the config's fields."""
    counted, usual = counted_settings(config), default_settings()
    return {key: counted[key] for key in usual if counted.get(key, usual[key]) != usual[key]}


def varying(settings: Iterable[Settings]) -> list[str]:
    """The settings that are not the same in all of them, in the order of the config's fields."""
    distinct = list({repr(sorted(one.items())): one for one in _objects(settings)}.values())
    keys = [*default_settings(), *sorted(set().union(*distinct) - default_settings().keys())]
    return [key for key in keys if len({repr(value(one, key)) for one in distinct}) > 1]


def _objects(settings: Iterable[Settings]) -> Iterable[Settings]:
    """Each object once: runs of a recipe share theirs."""
    return {id(one): one for one in settings}.values()


def telling(known: Sequence[tuple[Hashable, ...]], settings: Sequence[Settings]) -> tuple[list[str], list[str]]:
    """Of runs of which so much is `known`, such as the loss, and their `settings`: the settings that it takes beside it
    to tell all recipes apart, and those that go along with it and these."""
    texts = {id(one): repr(sorted(one.items())) for one in _objects(settings)}
    distinct = {(point, texts[id(one)]): one for point, one in zip(known, settings, strict=True)}
    pairs = [(point, one) for (point, _), one in distinct.items()]
    cells: list[tuple[Hashable, ...]] = [point for point, _ in pairs]
    found: list[str] = []
    along: list[str] = []
    for key in varying(one for _, one in pairs):
        finer = [(*cell, repr(value(one, key))) for cell, (_, one) in zip(cells, pairs, strict=True)]
        if len(set(finer)) > len(set(cells)):
            cells, found = finer, [*found, key]
        else:
            along.append(key)
    return found, along


def text(setting: Any) -> str:
    """A setting's value in a table."""
    if isinstance(setting, list | tuple):
        return ",".join(map(text, setting))
    if setting is None or isinstance(setting, bool):
        return {None: "null", True: "true", False: "false"}[setting]
    return f"{setting:.10g}" if isinstance(setting, float) else str(setting)


def is_setting(name: str) -> bool:
    """Whether a run of ours has a setting of that name."""
    return name in default_settings() or name == WIDTH_OF_MODEL


def in_order(cell: str) -> tuple[float, str]:
    """Sorts texts, numbers by their size."""
    try:
        return float(cell), ""
    except ValueError:
        return float("inf"), cell
