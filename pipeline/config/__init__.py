"""The settings of a run: what may be said in a recipe or by a flag, checked where it is made."""

from pipeline.config.data import DataConfig
from pipeline.config.run import (
    RunConfig,
    config_hash,
    counted_settings,
    default_settings,
    older_hash,
    run_settings,
)
from pipeline.config.sections import DiagnosticsConfig, ModelConfig, MultConfig

__all__ = [
    "DataConfig",
    "DiagnosticsConfig",
    "ModelConfig",
    "MultConfig",
    "RunConfig",
    "config_hash",
    "counted_settings",
    "default_settings",
    "older_hash",
    "run_settings",
]
