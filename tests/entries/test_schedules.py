"""Schedules by their closed forms."""

import math

import pytest

from pipeline.config import RunConfig
from pipeline.entries.schedules import SCHEDULES
from pipeline.errors import RequestError
from tests.conftest import changed

BASE = RunConfig(steps=101, warmup_steps=10, lr_min_ratio=0.1)


def rates(**change: object) -> list[float]:
    config = changed(BASE, **change)
    return [SCHEDULES[config.schedule].factor(config, s) for s in range(config.steps)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_is_linear_and_the_first_update_moves(schedule: str) -> None:
    assert rates(schedule=schedule)[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert rates(schedule=schedule)[10] == 1
    assert rates(schedule=schedule, steps=1, warmup_steps=1) == [1]


def test_cosine_by_closed_form() -> None:
    rate = rates()
    assert rate[55] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)
    assert rate[100] == pytest.approx(0.1)
    assert rates(steps=1, warmup_steps=0) == [1]


def test_linear_by_closed_form() -> None:
    rate = rates(schedule="linear")
    assert rate[10:] == pytest.approx([0.1 + 0.9 * (100 - s) / 90 for s in range(10, 101)])


def test_constant_stays() -> None:
    assert set(rates(schedule="constant", lr_min_ratio=0.3)[10:]) == {1.0}


@pytest.mark.parametrize(("shape", "left"), [("linear", lambda x: 1 - x), ("sqrt", lambda x: 1 - math.sqrt(x))])
def test_wsd_decays_over_its_last_share(shape: str, left: object) -> None:
    """int(f S) steps, the last of them at lr_min_ratio; those before know nothing of the horizon."""
    rate = rates(schedule="wsd", decay_fraction=0.25, decay_shape=shape)
    assert set(rate[10:76]) == {1.0}
    assert rate[76:] == pytest.approx([0.1 + 0.9 * left((s + 1) / 25) for s in range(25)])  # type: ignore[operator]
    longer = rates(schedule="wsd", decay_fraction=0.25, decay_shape=shape, steps=400)
    assert longer[:76] == rate[:76]
    assert rates(schedule="wsd", decay_fraction=1.0, decay_shape=shape)[100] == pytest.approx(0.1)


def test_a_schedule_has_its_own_settings() -> None:
    with pytest.raises(RequestError, match="--decay_fraction is for --schedule wsd, not cosine"):
        changed(BASE, decay_fraction=0.5)
    with pytest.raises(RequestError, match="--decay_fraction must be above 0 and at most 1, got 0"):
        changed(BASE, schedule="wsd", decay_fraction=0.0)
