"""The mirror of metrics.jsonl in W&B: never needed, never in the way."""

import netrc
import os
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, ClassVar, Self, cast
from urllib.parse import urlparse

from pipeline.config import RunConfig, run_settings
from pipeline.run.result import RunResult

PROJECT = "width-scaling"
CONNECT, FINISH = 10.0, 30.0
"""Seconds that a service may take to answer, and to take what is left at the end."""
_FAILED = 1


def logged_in() -> bool:
    """Whether W&B would find an API key here: in the environment, or in the netrc file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except FileNotFoundError:
        return False
    except (OSError, netrc.NetrcParseError) as error:
        print(f"W&B: the netrc file cannot be read ({error}): nobody counts as logged in", file=sys.stderr)
        return False


def mode_of(asked: str) -> str:
    """``online``, ``offline`` or ``disabled``; `asked` may be ``auto``, which leaves it to WANDB_MODE and the login."""
    if asked != "auto":
        return asked
    return os.environ.get("WANDB_MODE") or ("online" if logged_in() else "disabled")


class WandbMirror:
    """Repeats a run's records in a W&B run of its own: group = study, config and summary filled, the state as it ended.

    A context manager around the training. Any failure of the service ends the mirror with a line on stderr, not the
    run; where it could not be reached, this process does not try again.
    """

    _unreachable: ClassVar[bool] = False

    @property
    def _online(self) -> bool:
        return self._mode != "offline"

    def __init__(self, config: RunConfig) -> None:
        self._config, self._mode = config, mode_of(config.wandb)
        self._run: Any = None

    def __enter__(self) -> Self:
        if self._mode != "disabled" and not WandbMirror._unreachable:
            self._guarded(self._open)
            WandbMirror._unreachable = self._run is None and self._online
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._run is not None:  # the run failed, or was interrupted
            self._guarded(lambda: self._run.finish(exit_code=_FAILED))

    def _open(self) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")  # before it says whose key it has found
        import wandb

        config = self._config
        self._run = wandb.init(
            project=PROJECT,
            group=config.study,
            name=config.run_name,
            id=f"{config.study}-{config.run_name}",
            resume="allow" if self._online else None,  # what is offline is put together when it is synchronized
            dir=str(config.run_dir),
            mode=cast(Any, self._mode),  # WANDB_MODE has more names, of which the client judges
            config=run_settings(config),
            reinit="create_new",  # a worker trains many runs
            settings=wandb.Settings(silent=True, console="off", init_timeout=CONNECT, finish_timeout=FINISH),
        )

    def log(self, record: Mapping[str, Any]) -> None:
        if self._run is not None:
            metrics = {key: value for key, value in record.items() if key != "step"}
            self._guarded(lambda: self._run.log(metrics, step=record["step"]))

    def finish(self, result: RunResult) -> None:
        """The run is done, whatever its status."""

        def close() -> None:
            self._run.summary.update(result.to_json())
            self._run.finish(exit_code=0)

        if self._run is not None:
            self._guarded(close)
            self._run = None

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # the client's own, its service's and the network's errors have nothing in common
            lost = self._config.run_name
            if self._run is None and self._online:  # there may be many, and each would wait as long
                lost += " and whatever this process trains after it"
            self._run = None
            why = (str(error).splitlines() or [""])[0]
            print(
                f"W&B mirror stopped ({type(error).__name__}: {why}): W&B lacks the rest of {lost}; the run goes on, "
                "and metrics.jsonl is complete",
                file=sys.stderr,
                flush=True,
            )
