"""The mirror of metrics.jsonl in W&B: never needed, never in the way."""

import netrc
import os
import warnings
from typing import Any
from urllib.parse import urlparse

from pipeline.config import RunConfig, run_settings

PROJECT = "width-scaling"


def logged_in() -> bool:
    """Whether W&B would find an API key here: in the environment, or in the netrc file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


class WandbMirror:
    """Repeats a run's records in W&B through Lightning's logger: group = study, config and summary filled.

    Any failure of the service ends the mirror with a warning, not the run.
    """

    def __init__(self, config: RunConfig) -> None:
        mode = config.wandb
        if mode == "auto":
            mode = "online" if logged_in() else "disabled"
        self._logger: Any = None
        if mode == "disabled" or os.environ.get("LOCAL_RANK", "0") != "0":
            return
        from lightning.pytorch.loggers import WandbLogger

        config.run_dir.mkdir(parents=True, exist_ok=True)
        self._guarded(lambda: self._open(WandbLogger, config, offline=mode == "offline"))

    def _open(self, logger_class: Any, config: RunConfig, offline: bool) -> None:
        self._logger = logger_class(
            project=PROJECT,
            group=config.study,
            name=config.run_name,
            id=f"{config.study}-{config.run_name}",
            resume="allow",
            save_dir=str(config.run_dir),
            offline=offline,
            config=run_settings(config),
        )
        _ = self._logger.experiment  # connects now, so that a failure is met here

    def log(self, record: dict[str, Any]) -> None:
        if self._logger is not None:
            metrics = {key: value for key, value in record.items() if key != "step"}
            self._guarded(lambda: self._logger.log_metrics(metrics, step=record["step"]))

    def finish(self, result: dict[str, Any]) -> None:
        def close() -> None:
            self._logger.experiment.summary.update(result)
            self._logger.experiment.finish(quiet=True)

        if self._logger is not None:
            self._guarded(close)

    def _guarded(self, action: Any) -> None:
        try:
            action()
        except Exception as error:  # whatever the service does, the run goes on
            self._logger = None
            warnings.warn(f"W&B mirror stopped: {error}. The run goes on; metrics.jsonl is complete.", stacklevel=2)
