"""The Lightning module of a run: its learning rates follow the run's own schedule."""

import pytest

from pipeline.config import DataConfig, ModelConfig, RunConfig
from pipeline.data.open import open_data
from pipeline.entries.schedules import SCHEDULES, Schedule
from pipeline.training.module import TrainingModule

STEPS = 4


def factors(config: RunConfig) -> list[float]:
    """Learning rate over the peak at each of the first updates."""
    module = TrainingModule(config, open_data(config))
    configured = module.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    seen = []
    for _ in range(STEPS):
        seen.append(optimizer.param_groups[0]["lr"] / optimizer.param_groups[0]["initial_lr"])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.fixture
def config() -> RunConfig:
    model = ModelConfig(kind="mlp", n_layer=2)
    return RunConfig(
        model=model, data=DataConfig(format="digits"), steps=STEPS, warmup_steps=2, width=16, base_width=16
    )


def test_a_run_follows_the_schedule_that_it_names(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert factors(config) == pytest.approx([SCHEDULES["cosine"].factor(config, step) for step in range(STEPS)])
    halving = Schedule(
        "halving", frozenset({"lr_min_ratio"}), lambda c, steps: 0, lambda c, x: 0.5 ** (x * (c.steps - 1))
    )
    monkeypatch.setitem(SCHEDULES, "halving", halving)
    for key, value in {"schedule": "halving", "warmup_steps": 0, "lr_min_ratio": 0.0}.items():
        object.__setattr__(config, key, value)
    assert factors(config) == pytest.approx([1, 0.5, 0.25, 0.125])


def test_a_schedule_that_no_table_knows_is_refused(config: RunConfig) -> None:
    object.__setattr__(config, "schedule", "stepwise")  # as if it were known to the settings alone
    with pytest.raises(KeyError, match="stepwise"):
        factors(config)
