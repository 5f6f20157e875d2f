"""Small studies of real runs, and the results of runs that never were."""

import dataclasses
from typing import Any

from pipeline.config import RunConfig
from pipeline.run.directory import RunDir
from pipeline.run.result import RunResult
from pipeline.sweep.config import SweepConfig


def study(tiny: RunConfig, **axes: object) -> SweepConfig:
    """Four runs over two widths."""
    settings = {f.name: getattr(tiny, f.name) for f in dataclasses.fields(RunConfig)}
    return SweepConfig(**(settings | {"widths": (32, 64), "lrs": (1e-3, 1e-2), "workers": 2} | axes))


def finish(run: RunConfig, **result: Any) -> None:
    directory = RunDir(run.run_dir)
    directory.create(run, "text")
    final = {"final_train_loss": 5.0, "final_val_loss": 5.0}
    whole = {"status": "completed", "final": final, "steps": 1, "tokens": 1, "seconds": 600.0} | result
    directory.write_result(RunResult(**{"tokens_per_second": 1.0, "parameters": 1, "diverged_at": None, **whole}))
