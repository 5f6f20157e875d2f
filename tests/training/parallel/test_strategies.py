"""The table of strategies: the names it has are the flag's, and what an entry says."""

from dataclasses import replace
from typing import get_args, get_type_hints

import pytest

from pipeline.config import RunConfig
from pipeline.errors import RequestError
from pipeline.training.parallel.strategies import STRATEGIES, strategy_of
from pipeline.training.parallel.zero import ZeroStrategy
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
