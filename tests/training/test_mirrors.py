"""The W&B mirror: a real offline run read back, and failures that end the mirror, not the run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import RunConfig
from pipeline.run.directory import RunDir
from pipeline.training.mirrors import WandbMirror, logged_in
from pipeline.training.trainer import train
from tests.conftest import changed


def test_logged_in_by_key_or_netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    assert not logged_in()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 0123\n")
    (tmp_path / "netrc").chmod(0o600)
    assert logged_in()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not logged_in()
    monkeypatch.setenv("WANDB_API_KEY", "0123")
    assert logged_in()


def test_auto_is_disabled_where_nobody_is_logged_in(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    config = changed(tiny, wandb="auto")
    train(config)
    assert not (config.run_dir / "wandb").exists()


def test_a_failing_service_does_not_stop_the_run(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(WandbMirror, "_open", unreachable)
    with pytest.warns(UserWarning, match="W&B mirror stopped: no route to host"):
        result = train(changed(tiny, wandb="online"))
    assert result.status == "completed"


@pytest.mark.slow
def test_an_offline_run_holds_the_records(tiny: RunConfig, tmp_path: Path) -> None:
    """In a process of its own, as a user runs it; read back with W&B's own tool."""
    from tests.training.test_trainer import start_cli

    process = start_cli(tiny, tmp_path / "run.yaml", "--wandb", "offline")
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    files = list((tiny.run_dir / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 1
    wandb = shutil.which("wandb", path=str(Path(sys.executable).parent))
    assert wandb is not None
    inspected = subprocess.run(
        [wandb, "leet", "inspect", "--json", str(files[0])], capture_output=True, text=True, check=True
    )
    text = inspected.stdout
    records = RunDir(tiny.run_dir).records()
    assert json.dumps(tiny.study) in text
    assert tiny.run_name in text
    assert str(records[-1]["val_loss"])[:10] in text
    assert "final_train_loss" in text
