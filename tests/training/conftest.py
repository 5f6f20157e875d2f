"""Fixtures of tests that train in this process."""

import signal
from collections.abc import Iterator

import pytest

from pipeline.training.health import STOP_SIGNALS


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Runs in this process set handlers of their own."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
