"""A site profile: what a cluster is called, what a run gets there at each width. One YAML, `slurm/profiles/example.yaml`
explains every key."""

import dataclasses
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import RunConfig
from pipeline.errors import RequestError
from pipeline.recipes import reject_unknown, shipped


@dataclass(frozen=True)
class Profile:
    """A cluster as the jobs of one width see it; None: left to SLURM or to the recipe."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str | None = None
    """Of one device, such as gpu:h100; a node gets as many as it has devices."""
    cpus_per_device: int = 1
    memory_per_node: str | None = None
    memory_per_device: str | None = None
    max_time: int = 24 * 60
    """Longest time limit that is asked for, in minutes (in the file: 90min, 24h, 2d)."""
    throttle: int | None = None
    """Tasks of an array that run at the same time."""
    devices: int | None = None
    num_nodes: int | None = None
    strategy: str | None = None
    micro_batch: int | str | None = None
    flops_per_second: float | None = None
    """What one device achieves, for the first estimate of a run's time."""
    margin: float = 1.5
    """Time limit over expected time."""
    signal_seconds: int = 120
    """How long before the limit a run is asked for a checkpoint."""
    max_requeues: int = 20
    """Restarts of one task after which its script lets it end."""
    python: str = sys.executable
    modules: tuple[str, ...] = ()
    setup: str | None = None
    """Script that the job sources, after the modules."""
    environment: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str | None] = field(default_factory=dict)
    """Other options of sbatch for the arrays, without dashes; a flag without a value has None."""
    report: Mapping[str, str | None] = field(default_factory=dict)
    """Options of sbatch for the last job, over partition, account and qos."""
    widths: tuple[Mapping[str, Any], ...] = ()
    """Rules {from: WIDTH, KEY: VALUE, ...}: the one with the largest from <= width holds."""

    def at(self, width: int) -> "Profile":
        """The profile with the rule of `width` applied."""
        rules = [rule for rule in self.widths if rule["from"] <= width]
        return dataclasses.replace(self, **{k: v for k, v in rules[-1].items() if k != "from"}) if rules else self

    def place(self, run: RunConfig) -> RunConfig:
        """`run` on the devices that its width gets, the same mathematics. Raises `RequestError` if that cannot be."""
        here = self.at(run.width)
        changes: dict[str, Any] = {
            key: value
            for key in ("devices", "num_nodes", "strategy", "micro_batch")
            if (value := getattr(here, key)) is not None
        }
        if run.micro_batch == max(1, run.global_batch // run.world_size):  # the default, which follows the devices
            changes.setdefault("micro_batch", None)
        try:
            return dataclasses.replace(run, **changes)
        except RequestError as error:
            raise RequestError(f"profile, width {run.width}: {error}") from None


# What a rule may change: everything but what concerns the cluster as a whole.
_PER_WIDTH = {
    "partition", "account", "qos", "constraint", "gres", "cpus_per_device", "memory_per_node", "memory_per_device",
    "max_time", "throttle", "devices", "num_nodes", "strategy", "micro_batch", "flops_per_second", "margin", "options",
}  # fmt: skip

# Options of sbatch that the launcher decides.
_OURS = {
    "array", "chdir", "cpus-per-task", "dependency", "export", "job-name", "mem", "nodes", "no-requeue", "ntasks",
    "ntasks-per-node", "open-mode", "output", "parsable", "requeue", "signal", "test-only", "time", "wait", "wrap",
}  # fmt: skip
_OURS_IN_REPORT = _OURS - {"mem", "cpus-per-task", "time"}


def load_profile(name: str) -> Profile:
    """The profile of that name in `slurm/profiles/`, or in that file. Raises `RequestError` naming what to change."""
    known = shipped("slurm/profiles")
    if not name:
        raise RequestError(
            f"--launcher slurm needs --profile: a YAML that describes your cluster, like {known['example']}"
        )
    path = known.get(name, Path(name))
    try:
        settings = yaml.safe_load(path.read_text())
    except OSError as error:
        raise RequestError(
            f"--profile {name}: {error.strerror or error}, and no profile of that name ({', '.join(known)})"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RequestError(f"--profile {path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(settings, dict):
        raise RequestError(f"--profile {path}: a profile is a mapping of keys to values")
    return _profile(path, settings)


def _profile(path: Path, settings: dict[str, Any]) -> Profile:
    values = _checked(str(path), settings, {f.name for f in dataclasses.fields(Profile)})
    rules = values.pop("widths", ())
    if "setup" in values:
        setup = (path.parent / Path(values["setup"]).expanduser()).resolve()
        if not setup.is_file():
            raise RequestError(f"{path}: setup {setup} is not a file")
        values["setup"] = str(setup)
    for number, rule in enumerate(rules, start=1):
        where = f"{path}, rule {number} of widths"
        if not isinstance(rule, dict) or not _count(rule.get("from")):
            raise RequestError(f"{where}: start it with from: WIDTH, such as {{from: 1024, devices: 8}}")
    profile = Profile(
        **values,
        widths=tuple(
            {"from": rule["from"]}
            | _checked(f"{path}, rule {n} of widths", {k: v for k, v in rule.items() if k != "from"}, _PER_WIDTH)
            for n, rule in enumerate(sorted(rules, key=lambda rule: int(rule["from"])), start=1)
        ),
    )
    for width in [0, *(rule["from"] for rule in profile.widths)]:
        _consistent(path, profile.at(width))
    return profile


def _consistent(path: Path, profile: Profile) -> None:
    if profile.memory_per_node and profile.memory_per_device:
        raise RequestError(f"{path}: give memory_per_node or memory_per_device, not both")
    shortest = shortest_limit(profile)
    if profile.max_time < shortest:
        raise RequestError(
            f"{path}: max_time {profile.max_time}min leaves too little before the signal: give at least {shortest}min, "
            f"or a smaller signal_seconds than {profile.signal_seconds}"
        )


def shortest_limit(profile: Profile) -> int:
    """Minutes of the shortest time limit that leaves a run as long again before its signal, which SLURM may send a
    minute early."""
    return -(-(2 * profile.signal_seconds + 60) // 60)


# ---------------------------------------------------------------------------------------------------------------------
# Values


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and value.isprintable()


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _memory(value: Any) -> bool:
    return _text(value) and re.fullmatch(r"\d+[KMGT]", value) is not None


def _minutes(value: Any) -> int:
    """``"1d12h"`` -> 2160; 0 for what is no time. Never 24:00:00, which YAML reads as the number 86400."""
    parts = re.fullmatch(r"(?:(\d+)d)? ?(?:(\d+)h)? ?(?:(\d+)min)?", value) if isinstance(value, str) else None
    return sum(int(n or 0) * unit for n, unit in zip(parts.groups(), (1440, 60, 1), strict=True)) if parts else 0


def _plain(value: Any) -> str:
    """A scalar of YAML as the text that people mean by it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


# key -> whether a value may be its, and in words what it expects
_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("partition", "account", "qos", "constraint", "gres", "python", "setup", "strategy"), (_text, "text")),
    **dict.fromkeys(
        ("cpus_per_device", "throttle", "devices", "num_nodes", "signal_seconds"), (_count, "a whole number from 1")
    ),
    **dict.fromkeys(("memory_per_node", "memory_per_device"), (_memory, "a size such as 64G")),
    "max_time": (lambda v: _minutes(v) > 0, "a time such as 90min, 24h or 2d"),
    "micro_batch": (lambda v: _count(v) or v == "auto", "a whole number from 1, or auto"),
    "flops_per_second": (_positive, "a positive number such as 2.0e+14"),
    "margin": (lambda v: _positive(v) and v >= 1, "a number from 1"),
    "max_requeues": (lambda v: v == 0 or _count(v), "a whole number from 0"),
    "modules": (lambda v: isinstance(v, list) and all(map(_text, v)), "a list of module names"),
    "environment": (lambda v: _mapping(v, r"[A-Za-z_]\w*"), "a mapping of variables to values"),
    "options": (lambda v: _mapping(v, r"[a-z][a-z-]*"), "a mapping of sbatch's options, without dashes, to values"),
    "report": (lambda v: _mapping(v, r"[a-z][a-z-]*"), "a mapping of sbatch's options, without dashes, to values"),
    "widths": (lambda v: isinstance(v, list), "a list of rules such as {from: 1024, devices: 8}"),
}  # fmt: skip


def _mapping(value: Any, key: str) -> bool:
    return isinstance(value, dict) and all(
        isinstance(k, str) and re.fullmatch(key, k) and (v is None or isinstance(v, str | int | float))
        for k, v in value.items()
    )


def _checked(where: str, settings: dict[Any, Any], known: set[str]) -> dict[str, Any]:
    """`settings` with every key known and every value converted; null leaves a key at its default."""
    values: dict[str, Any] = {}
    for key, value in settings.items():
        reject_unknown(str(key), known, where)
        if value is None:
            continue
        allowed, words = _VALUES[key]
        if not allowed(value):
            raise RequestError(f"{where}: {key}: expected {words}, got {value!r}")
        values[key] = value
    for key, ours in (("options", _OURS), ("report", _OURS_IN_REPORT)):
        for option in values.get(key, {}):
            if option in ours:
                raise RequestError(f"{where}: {key}: {option} is the pipeline's to set")
        if key in values:
            values[key] = {o: None if v is None else _plain(v) for o, v in values[key].items()}
    if "environment" in values:
        values["environment"] = {k: "" if v is None else _plain(v) for k, v in values["environment"].items()}
    if "max_time" in values:
        values["max_time"] = _minutes(values["max_time"])
    if "modules" in values:
        values["modules"] = tuple(values["modules"])
    return values
