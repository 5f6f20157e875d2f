"""A SLURM that is none, and a study for it."""

from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.sweep.config import SweepConfig
from tests.support.slurm_stand_in import FakeSlurm, install, profile_file
from tests.support.studies import study


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    monkeypatch.setenv("PATH", f"{tmp_path / 'fake'}:/usr/bin:/bin")
    return install(tmp_path / "fake")


@pytest.fixture
def config(tiny: RunConfig, tmp_path: Path) -> SweepConfig:
    """Four runs over two widths."""
    return study(tiny, launcher="slurm", profile=str(profile_file(tmp_path)))
