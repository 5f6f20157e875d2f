"""The branches of a run: shorter ones, otherwise the same, that it leaves where their learning rate departs from its.

A branch is left as an interrupted run, with records and a checkpoint: resuming it is all there is to training it.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl

from pipeline.config import RunConfig, config_hash, shared_steps
from pipeline.errors import RequestError
from pipeline.run.directory import RunDir
from pipeline.training.checkpoint.state import save
from pipeline.training.module import TrainingModule
from pipeline.training.parallel.ranks import gather


class Branches:
    """Those that `--branch_steps` asks for. All processes of the run have one."""

    def __init__(self, config: RunConfig, run: RunDir) -> None:
        self._run = run
        self._after: dict[int, list[RunConfig]] = {}
        for steps in config.branch_steps:
            self._after.setdefault(shared_steps(config, steps), []).append(config.branch(steps))

    def after(self, step: int) -> list[RunConfig]:
        """Those that are left after this step."""
        return self._after.get(step, [])

    def leave(self, trainer: pl.Trainer, module: TrainingModule, state: Mapping[str, Any]) -> None:
        """Those of this step, but for what is finished, under way or further already; to be called by all processes,
        with the state of a checkpoint of the run. Raises `OSError` where the disk fails."""
        for config in self.after(trainer.global_step):
            with ExitStack() as held:
                begins = trainer.is_global_zero and self._begin(config, trainer.global_step, state["seconds"], held)
                if gather(begins)[0]:
                    its = {**state, "config": config_hash(config)}
                    save(trainer, module.model, RunDir(config.run_dir).checkpoints, its, 1, module.beside)

    def _begin(self, config: RunConfig, step: int, seconds: float, held: ExitStack) -> bool:
        """Make the branch's directory, and hold it; False where there is nothing to do."""
        branch = RunDir(config.run_dir)
        try:
            if branch.result() is not None:
                return False
            branch.create(config, self._run.recorded()["data_fingerprint"])
            held.enter_context(branch.lock())
            if branch.checkpoint_step():
                return False
            branch.begin_as(self._run, step, seconds)
        except RequestError:  # damaged, or being trained: whoever trains it is told
            return False
        return True
