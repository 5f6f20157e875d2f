"""A study: rounds of runs that a plan chooses and a launcher has trained, and what the two have to offer."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from pipeline.config import RunConfig
from pipeline.errors import RequestError
from pipeline.files import locked
from pipeline.sweep.config import LAUNCHERS, PLANS, SweepConfig


@dataclass(frozen=True)
class Planned:
    """A round: `runs` to make, of which some may be finished; none when the plan is at its end."""

    runs: tuple[RunConfig, ...]
    finding: str = ""
    """What is known so far, in words."""
    entry: dict[str, Any] | None = None
    """What the plan is to record of the round before anything of it starts, or of its end; None where there is nothing
    to add."""
    followed: bool = False
    """Whether the plan is asked again when these runs have ended."""
    preview: Iterable[str] = ()
    """Lines that say what would run, to be read once."""

    @property
    def begun(self) -> bool:
        """Whether these runs were left over when the round was made before."""
        return self.followed and self.entry is None


class Plan(Protocol):
    """Which runs a study makes next. A module, an entry of `PLANS`."""

    def check(self, config: SweepConfig) -> None:
        """Raises `RequestError` for a study that it cannot plan."""

    def plan(self, config: SweepConfig) -> Planned:
        """The next round. Writes nothing. Raises `RequestError`."""

    def record(self, config: SweepConfig, planned: Planned) -> None:
        """Remember the round, which is about to start, or the end."""


@dataclass(frozen=True)
class Job:
    """What a launcher knows of a run."""

    name: str | None
    state: str
    """queued, running, failed (it ended without a result), or lost (nobody works on it)."""
    why: Callable[[], str | None]
    """Why it is in this state, or why it waits; asked for only where it is shown, since it may read a log."""
    log: str | None
    settings: Path | None
    """A YAML of the run's settings, for as long as it has no directory of its own."""


@dataclass(frozen=True)
class ReportJob:
    """A job that fits and reports when the study's runs have ended."""

    job: str
    state: str
    reason: str


@dataclass(frozen=True)
class Jobs:
    """What a launcher knows of a study: nothing, where it never worked on it."""

    runs: Mapping[str, Job] = field(default_factory=dict)
    """By the runs' names."""
    reports: tuple[ReportJob, ...] = ()
    silence: str | None = None
    """Why the queue does not answer."""


Submit = Callable[[Planned], int]
"""Has what is not finished of a round trained; says what it does. The exit code. Raises `RequestError`, `OSError`."""


class Launcher(Protocol):
    """Where and how a study's runs are trained. A module, an entry of `LAUNCHERS`."""

    WAITS: bool
    """Whether a round's submission returns when its runs have ended, not before: then comes the next round."""

    def check(self, config: SweepConfig) -> None:
        """Raises `RequestError` for a study that it cannot launch."""

    def opened(self, config: SweepConfig) -> AbstractContextManager[Submit]:
        """What takes round after round."""

    def dry_run(self, config: SweepConfig, planned: Planned) -> int:
        """Print what submitting the round would do, and do nothing."""

    def jobs(self, study: Path) -> Jobs:
        """What is known of the study in this folder."""


def launcher(name: str) -> Launcher:
    """The launcher of that name in `LAUNCHERS`."""
    return cast(Launcher, import_module(LAUNCHERS[name]))


@contextmanager
def study_lock(folder: Path) -> Iterator[int]:
    """Hold the study for this process, and for children that are given the descriptor; made if it is not there yet.

    Raises `RequestError` where it cannot be written, or another sweep holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
    except OSError as error:
        raise RequestError(f"cannot write the study folder {folder} ({error.strerror}): choose another --out") from None
    with locked(folder / ".lock", busy=f"another sweep is running the study {folder}") as descriptor:
        yield descriptor


def sweep(
    config: SweepConfig, *, dry_run: bool = False, forecast: Callable[[Planned], None] = lambda planned: None
) -> int:
    """Plan and launch, round after round where the launcher waits for them; the exit code. `forecast` says what the
    round of a dry run takes.

    Raises `RequestError` for what the user must change, `OSError` where disk or queue fail.
    """
    plan, launch = cast(Plan, import_module(PLANS[config.plan])), launcher(config.launcher)
    launch.check(config)
    plan.check(config)
    with launch.opened(config) as submit:
        while True:
            planned = plan.plan(config)
            if config.data.write_through and (planned.followed or len(planned.runs) > 1):
                raise RequestError(
                    "--data.write_through is for one run: write with train, and sweep with --data FOLDER"
                )
            if planned.finding:
                print(planned.finding, flush=True)
            if not planned.runs:
                if planned.entry is not None and not dry_run:
                    plan.record(config, planned)
                return 0
            if dry_run:
                forecast(planned)
                return launch.dry_run(config, planned)
            plan.record(config, planned)
            code = submit(planned)
            if code or not (planned.followed and launch.WAITS):
                return code
