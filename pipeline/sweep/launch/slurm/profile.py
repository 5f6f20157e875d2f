"""A site profile: what a cluster is called, what a run gets there at each width. `slurm/profiles/example.yaml` explains
every key."""

import dataclasses
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from pipeline.config import RunConfig
from pipeline.errors import RequestError, require
from pipeline.recipes import keys, reject_unknown, shipped, typed
from pipeline.strict_yaml import load_yaml

Options = Mapping[str, str | int | float | bool | None]


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
    max_time: str | int = "24h"
    """Longest time limit that is asked for: 90min, 24h, 2d, 1d12h. Never 24:00:00, which YAML reads as 86400."""
    throttle: int | None = None
    """Tasks of an array that run at the same time."""
    devices: int | None = None
    num_nodes: int | None = None
    strategy: str | None = None
    micro_batch: int | Literal["auto"] | None = None
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
    environment: Options = field(default_factory=dict)
    options: Options = field(default_factory=dict)
    """Other options of sbatch for the arrays, without dashes; a flag without a value has None."""
    report: Options = field(default_factory=dict)
    """Options of sbatch for the last job, over partition, account and qos."""
    widths: tuple[Mapping[str, Any], ...] = ()
    """Rules {from: WIDTH, KEY: VALUE, ...}: the one with the largest from <= width holds."""

    def __post_init__(self) -> None:
        """Raises `RequestError` for the first value that cannot be."""
        for key in ("partition", "account", "qos", "constraint", "gres", "python", "setup", "strategy"):
            text = getattr(self, key)
            require(text is None or (text and text.isprintable()), f"{key} must be text, got {text!r}")
        for key in ("cpus_per_device", "throttle", "devices", "num_nodes", "signal_seconds", "micro_batch", "margin"):
            number = getattr(self, key)
            require(number in (None, "auto") or number >= 1, f"{key} must be at least 1, got {number}")
        require(self.max_requeues >= 0, f"max_requeues must not be negative, got {self.max_requeues}")
        flops = self.flops_per_second
        require(flops is None or flops > 0, f"flops_per_second must be positive, got {flops}")
        for key in ("memory_per_node", "memory_per_device"):
            size = getattr(self, key)
            fine = size is None or re.fullmatch(r"\d+[KMGT]", size)
            require(fine, f"{key} must be a size such as 64G, got {size!r}")
        require(
            not (self.memory_per_node and self.memory_per_device), "give memory_per_node or memory_per_device, not both"
        )
        require(self.max_minutes, f"max_time must be a time such as 90min, 24h or 2d, got {self.max_time!r}")
        require(
            self.max_minutes >= self.shortest_limit,
            f"max_time {self.max_time} leaves too little before the signal: give at least {self.shortest_limit}min, "
            f"or a smaller signal_seconds than {self.signal_seconds}",
        )
        for module in self.modules:
            require(module and module.isprintable(), f"modules must be names, got {module!r}")
        for key, (pattern, words, ours, null) in _MAPPINGS.items():
            values = getattr(self, key)
            for name in values:
                require(re.fullmatch(pattern, str(name)), f"{key}: expected {words}, got {name!r}")
                require(name not in ours, f"{key}: {name} is the pipeline's to set")
            texts = {name: null if value is None else _plain(value) for name, value in values.items()}
            object.__setattr__(self, key, texts)
        for name, text in self.environment.items():
            require(
                not (_SECRET_NAME.match(name) or _SECRET_VALUE.search(str(text))),
                f"environment: {name} looks like a secret, and all users could read it in the queue: export it where "
                "you call pipeline sweep, whose environment jobs have, or in a setup file with mode 0600",
            )

    @property
    def max_minutes(self) -> int:
        """`max_time`; 0 for what is no time."""
        parts = re.fullmatch(r"(?:(\d+)d)? ?(?:(\d+)h)? ?(?:(\d+)min)?", str(self.max_time))
        return sum(int(n or 0) * unit for n, unit in zip(parts.groups(), (1440, 60, 1), strict=True)) if parts else 0

    @property
    def shortest_limit(self) -> int:
        """Minutes of the shortest time limit that leaves a run as long again before its signal, which SLURM may send a
        minute early."""
        return -(-(2 * self.signal_seconds + 60) // 60)

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


def _plain(value: Any) -> str:
    """A scalar of YAML as the text that people mean by it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


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

# Variables that hold secrets by their names, unless these say where one lies; and addresses with a password in them.
_SECRET_NAME = re.compile(
    r"(?!.*_(FILE|PATH|DIR)$)"
    r".*(?:(KEYS?|TOKEN|SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|CREDENTIALS?|JWT)\d*(_|$)|_(PASS|PAT|PWD|AUTH)$)",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(r"://[^/@\s]*:[^/@\s]+@")

# Key -> what its names look like, the same in words, those that are not a profile's to set, and what null stands for.
_OPTION = (r"[a-z][a-z-]*", "an option of sbatch, without dashes")
_MAPPINGS: Mapping[str, tuple[str, str, Collection[str], str | None]] = {
    "environment": (r"[A-Za-z_]\w*", "a variable's name", (), ""),
    "options": (*_OPTION, _OURS, None),
    "report": (*_OPTION, _OURS - {"mem", "cpus-per-task", "time"}, None),
}


def load_profile(name: str) -> Profile:
    """The profile of that name in `slurm/profiles/`, or in that file. Raises `RequestError` naming what to change."""
    known = shipped("slurm/profiles")
    if not name:
        raise RequestError(
            f"--launcher slurm needs --profile: a YAML that describes your cluster, like {known['example']}"
        )
    path = known.get(name, Path(name))
    try:
        settings = load_yaml(path)
    except OSError as error:
        raise RequestError(
            f"--profile {name}: {error.strerror or error}, and no profile of that name ({', '.join(known)})"
        ) from None
    except yaml.YAMLError as error:
        raise RequestError(f"--profile {path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(settings, dict):
        raise RequestError(f"--profile {path}: a profile is a mapping of keys to values")
    return _profile(path, settings)


def _profile(path: Path, settings: dict[Any, Any]) -> Profile:
    rules = settings.pop("widths", None) or []
    values = _values(str(path), settings, keys(Profile))
    if "setup" in values:
        values["setup"] = str((path.parent / values["setup"]).resolve())
        require(Path(values["setup"]).is_file(), f"{path}: setup {values['setup']} is not a file")
    profile = _changed(Profile(), str(path), values)
    require(isinstance(rules, list), f"{path}: widths: expected a list of rules such as {{from: 1024, devices: 8}}")
    checked = []
    for number, rule in enumerate(rules, start=1):
        where = f"{path}, rule {number} of widths"
        start = rule.pop("from", None) if isinstance(rule, dict) else None
        begun = type(start) is int and start >= 1
        require(begun, f"{where}: start it with from: WIDTH, such as {{from: 1024, devices: 8}}")
        values = _values(where, rule, _PER_WIDTH)
        _changed(profile, where, values)
        checked.append({"from": start, **values})
    return dataclasses.replace(profile, widths=tuple(sorted(checked, key=lambda rule: int(rule["from"]))))


def _values(where: str, settings: Mapping[Any, Any], known: Collection[str]) -> dict[str, Any]:
    """The settings of a file, or of a rule in it; null leaves a key as it is. Raises `RequestError`."""
    for key in settings:
        reject_unknown(str(key), known, where)
    return typed(Profile, {key: value for key, value in settings.items() if value is not None}, f"{where}: ")


def _changed(profile: Profile, where: str, values: Mapping[str, Any]) -> Profile:
    try:
        return dataclasses.replace(profile, **values)
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None
