"""The mirror in trackio, read back by its own storage. Its releases for this project's huggingface_hub want an older
pandas, so that CI runs this file in an environment of its own; where the package is missing it is skipped."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import RunConfig
from pipeline.run.directory import RunDir
from pipeline.training.trainer import train
from tests.conftest import changed
from tests.support.runs import at_step
from tests.support.wandb_offline import known

pytest.importorskip("trackio", exc_type=ImportError)


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Read when its modules are first imported, so they are told once more."""
    folder = tmp_path / "trackio"
    for module in ("utils", "sqlite_storage"):
        monkeypatch.setattr(importlib.import_module(f"trackio.{module}"), "TRACKIO_DIR", folder, raising=False)
    return importlib.import_module("trackio.sqlite_storage").SQLiteStorage


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_run_and_one_that_was_interrupted_and_went_on(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], storage: Any
) -> None:
    config = changed(tiny, mirrors=("trackio",))

    def stop(*_: object) -> None:
        raise OSError("the cable was pulled")

    with monkeypatch.context() as patched:
        at_step(6, stop, patched)
        with pytest.raises(OSError, match="cable"):
            train(config, show_progress=False)
    result = train(config, show_progress=False)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    assert storage.get_runs("tests") == [config.run_name]
    *logs, end = storage.get_logs("tests", config.run_name)
    records = RunDir(config.run_dir).records()  # of the steps that it had before, a resumed run's timing is another
    assert [known(log, "timestamp", "tokens_per_second") for log in logs] == [
        known(r, "tokens_per_second") for r in records
    ]
    assert (end["step"], end["status"]) == (result.steps, "completed")
    assert storage.get_run_config("tests", config.run_name)["lr"] == config.lr
