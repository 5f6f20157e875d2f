"""The table of strategies: the names it has are the flag's, and what an entry says."""

from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment

from pipeline.config import RunConfig
from pipeline.errors import RequestError
from pipeline.training.parallel.strategies import STRATEGIES, environment, strategy_of
from pipeline.training.parallel.zero import ZeroStrategy
from pipeline.training.trainer import train
from tests.conftest import changed


def test_the_table_has_the_names_that_the_flag_takes() -> None:
    assert tuple(STRATEGIES) == get_args(get_type_hints(RunConfig)["strategy"])


def test_an_unknown_strategy_is_refused_wherever_it_is_asked_for(tiny: RunConfig) -> None:
    """Also one that begins or ends like a known one."""
    for name in ("zero", "fsdp2", "deepspeed", "deepspeed_zero4", ""):
        with pytest.raises(RequestError, match=rf"--strategy {name} is none of auto, ddp, fsdp, deepspeed_zero1"):
            strategy_of(changed(tiny, strategy=name))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_stage_of_zero_is_that_of_the_name(tiny: RunConfig, stage: int) -> None:
    config = replace(tiny, strategy=f"deepspeed_zero{stage}", grad_clip=0.5)
    strategy = strategy_of(config).lightning(config)
    assert isinstance(strategy, ZeroStrategy)
    assert strategy.config["zero_optimization"] == {"stage": stage}
    assert strategy.config["gradient_clipping"] == 0.5


def test_what_stands_between_passes_is_shared_as_the_strategy_shards() -> None:
    """Adam's two moments in four processes, beside the weights: gradients, moments and, where sharded, fp32 weights."""
    standing = {name: strategy.standing(2, 4) for name, strategy in STRATEGIES.items()}
    assert standing == {
        "auto": 3, "ddp": 3, "fsdp": 1, "deepspeed_zero1": 1 + 3 / 4, "deepspeed_zero2": 1, "deepspeed_zero3": 1,
    }  # fmt: skip


ALLOCATION = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "notebook", "SLURM_NTASKS": "4", "SLURM_NNODES": "1"}


@pytest.mark.parametrize("step", [{}, {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}])
def test_a_run_within_an_allocation_is_one_like_any_other(
    tiny: RunConfig, step: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`salloc -n 4`, a notebook's job, `srun` of one task: nobody started the run's other processes."""
    for name, value in (ALLOCATION | step).items():
        monkeypatch.setenv(name, value)
    (plugin,) = environment()
    assert type(plugin) is LightningEnvironment
    assert train(tiny).status == "completed"


def test_the_ranks_that_srun_started_are_a_runs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "1"}
    for name, value in (ALLOCATION | step).items():
        monkeypatch.setenv(name, value)
    (plugin,) = environment()
    assert isinstance(plugin, SLURMEnvironment)
    assert not plugin.auto_requeue
    assert (plugin.world_size(), plugin.global_rank()) == (2, 1)
