"""The mirrors of one run: never needed, never in the way."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

from pipeline.config import RunConfig
from pipeline.entries.mirrors import MIRRORS
from pipeline.errors import require
from pipeline.mirrors.service import mode_of
from pipeline.mirrors.to_wandb import WandbMirror
from pipeline.run.result import Record, RunResult


class Mirror(Protocol):
    """Repeats the records of one run elsewhere. Made with its `RunConfig`; may raise whatever its package raises, which
    ends the mirror and not the run."""

    label: str
    """As people write it."""
    remote: bool
    """Whether opening it may wait for a network."""

    def open(self, before: Sequence[Record]) -> None:
        """Begin, or go on where the run was interrupted: `before` are its records so far."""

    def log(self, record: Record) -> None:
        """One more."""

    def finish(self, result: RunResult) -> None:
        """The run is done, whatever its status."""

    def fail(self) -> None:
        """The run ended in an error, or was interrupted."""


def require_packages(config: RunConfig) -> None:
    """Raises `RequestError` where a mirror that is asked for is not installed."""
    for name in config.mirrors:
        require(
            find_spec(MIRRORS[name].package),
            f"--mirrors {name} needs the package {MIRRORS[name].package}, which is not installed: pip install "
            f"'width-scaling-pipeline[{name}]'",
        )


class Mirrors:
    """All mirrors of a run; a context manager around its training.

    Any failure of a mirror ends it with a line on stderr, not the run; where a service could not be reached, this
    process does not try again.
    """

    _unreachable: ClassVar[set[str]] = set()

    def __init__(self, config: RunConfig, before: Sequence[Record] = ()) -> None:
        self._config, self._before = config, before
        self._open: list[Mirror] = []

    def __enter__(self) -> Self:
        for mirror in _asked(self._config):
            if mirror.label in Mirrors._unreachable:
                continue
            self._open.append(mirror)
            self._guarded(mirror, lambda mirror=mirror: mirror.open(self._before), opens=mirror.remote)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._each(lambda mirror: mirror.fail())
        self._open = []

    def log(self, record: Record) -> None:
        self._each(lambda mirror: mirror.log(record))

    def finish(self, result: RunResult) -> None:
        self._each(lambda mirror: mirror.finish(result))
        self._open = []

    def _each(self, action: Callable[[Mirror], None]) -> None:
        for mirror in list(self._open):
            self._guarded(mirror, lambda mirror=mirror: action(mirror))

    def _guarded(self, mirror: Mirror, action: Callable[..., None], opens: bool = False) -> None:
        try:
            action()
        except Exception as error:  # the clients' own, their services' and the network's errors have nothing in common
            self._open.remove(mirror)
            lost = self._config.run_name
            if opens:  # there may be many, and each would wait as long
                Mirrors._unreachable.add(mirror.label)
                lost += " and whatever this process trains after it"
            why = (str(error).splitlines() or [""])[0]
            print(
                f"{mirror.label} mirror stopped ({type(error).__name__}: {why}): {mirror.label} lacks the rest of "
                f"{lost}; the run goes on, and metrics.jsonl is complete",
                file=sys.stderr,
                flush=True,
            )


def _asked(config: RunConfig) -> list[Mirror]:
    mode = mode_of(config.wandb.mode)
    found: list[Mirror] = [] if mode == "disabled" else [WandbMirror(config, mode)]
    for name in config.mirrors:
        module, _, kind = MIRRORS[name].build.partition(":")
        build: Any = getattr(import_module(module), kind)
        found.append(build(config))
    return found
