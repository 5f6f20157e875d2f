"""The settings of a run: what may be said in a recipe or by a flag, checked where it is made."""

from pipeline.config.branching import shared_steps as shared_steps
from pipeline.config.data import DataConfig as DataConfig
from pipeline.config.run import RunConfig as RunConfig
from pipeline.config.run import config_hash as config_hash
from pipeline.config.run import counted_settings as counted_settings
from pipeline.config.run import default_settings as default_settings
from pipeline.config.run import older_hash as older_hash
from pipeline.config.run import run_settings as run_settings
from pipeline.config.sections import DiagnosticsConfig as DiagnosticsConfig
from pipeline.config.sections import ModelConfig as ModelConfig
from pipeline.config.sections import MultConfig as MultConfig
from pipeline.config.sections import WandbConfig as WandbConfig
