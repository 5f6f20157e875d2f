"""Every setting of a study beside those of its runs, and the tables of what may plan and launch it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipeline.config import RunConfig
from pipeline.errors import require

PLANS = {"grid": "pipeline.sweep.grid", "adaptive": "pipeline.sweep.rounds"}
"""Name -> the module that is the plan (`pipeline.sweep.study.Plan`), imported where it is asked for."""

LAUNCHERS = {"local": "pipeline.sweep.launch.local", "slurm": "pipeline.sweep.launch.slurm.launch"}
"""Name -> the module that is the launcher (`pipeline.sweep.study.Launcher`)."""

if TYPE_CHECKING:
    PlanName = str
    LauncherName = str
else:
    PlanName, LauncherName = Literal[*PLANS], Literal[*LAUNCHERS]


@dataclass(frozen=True)
class SweepConfig(RunConfig):
    """A study: the runs of a grid, each as RunConfig describes it."""

    widths: tuple[int, ...] = ()
    """Widths of the study."""
    lrs: tuple[float, ...] = ()
    """Learning rates, the same at every width; adaptive: the first guess is their middle."""
    params: tuple[str, ...] = ()
    """Parameterizations; empty: the one of --param."""
    seeds: tuple[int, ...] = ()
    """Seeds; empty: the one of --seed; adaptive: counted up from the first."""
    grid: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Further axes: {model.n_layer: [2, 4], mult.hidden_lr: [0.5, 1]}; every combination is run. As flags
    --grid.n_layer 2,4 --grid.mult.hidden_lr 0.5,1; or data, with what --data takes: --grid.data mnist,cifar10."""
    workers: int = 0
    """Worker processes, single-threaded each; 0: one per GPU or, without one, per core."""
    plan: PlanName = "grid"
    """grid: every learning rate of lrs. adaptive: runs are chosen round by round, from what the finished ones say."""
    target_half_width: float = 0.05
    """Adaptive: end when the 95 % intervals of both exponents are +- this."""
    target_regret: float = 0.0
    """Adaptive: end instead when the recommended learning rate is expected to cost no more than this over the best one,
    at --at_width; 0: by the exponents."""
    at_width: int = 0
    """Adaptive, with --target_regret: the width that is asked about, trained or not."""
    budget: str = ""
    """Adaptive: also end when the study has cost so much: runs, such as 200, or hours of all devices together, such as
    20h."""
    launcher: LauncherName = "local"
    """local: worker processes on this machine. slurm: one job array per width."""
    profile: str = ""
    """SLURM: the cluster's description, a YAML by path or by its name in slurm/profiles/."""

    # A run's settings as given: what is left open, such as the weight decay, follows the point. In a slot, since it is
    # no setting of its own; ClassVar keeps it from becoming a field.
    __slots__ = ("_given",)
    _given: ClassVar[Mapping[str, Any]]

    def __post_init__(self) -> None:
        first = {key: values[0] for key, values in self.grid.items() if values}
        for name, value in _with(self._fields(), first).items():  # what no run has need not be possible
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_given", self._fields())
        super().__post_init__()

    def _fields(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(RunConfig)}

    @property
    def all_params(self) -> tuple[str, ...]:
        return self.params or (self.param,)

    @property
    def all_seeds(self) -> tuple[int, ...]:
        return self.seeds or (self.seed,)

    def _check(self) -> None:
        super()._check()
        require(not self.branch_steps, "--branch_steps is for train: a sweep finds what its runs share (--grid.steps)")
        require(self.workers >= 0, f"--workers must be 0 or more, got {self.workers}")

    def run(self, **point: Any) -> RunConfig:
        """The run of the study at that point, which may have dotted settings. Raises `RequestError` for one that cannot
        be."""
        return RunConfig(**_with(self._given, point))


def _with(settings: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with those of `point`, by dotted keys."""
    found = dict(settings)
    for key, value in point.items():
        section, _, name = key.rpartition(".")
        found[section or name] = dataclasses.replace(found[section], **{name: value}) if section else value
    return found
