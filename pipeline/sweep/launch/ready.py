"""What the workers of a sweep need, imported once: they are forked from the process that imports this.

It has no threads and no device of its own, and outlives the signals that ask the workers to stop.
"""

import signal
from importlib import import_module

import torch

from pipeline.imports import spare_metrics
from pipeline.training.health import handle_stop_signals

spare_metrics()
torch.set_num_threads(1)
import_module("pipeline.training.trainer")
handle_stop_signals(signal.SIG_IGN)
