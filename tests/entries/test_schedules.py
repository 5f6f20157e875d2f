"""Schedules by their closed forms."""

import math

import pytest

from pipeline.config import RunConfig
from pipeline.entries.schedules import cosine


def test_cosine_by_closed_form() -> None:
    config = RunConfig(steps=101, warmup_steps=10, lr_min_ratio=0.1)
    rate = [cosine(config, s) for s in range(101)]
    assert rate[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert rate[10] == 1
    assert rate[55] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)
    assert rate[100] == pytest.approx(0.1)
    assert cosine(RunConfig(steps=1, warmup_steps=0), 0) == 1
    assert cosine(RunConfig(steps=1, warmup_steps=1), 0) == 1
