"""The W&B mirror: a real offline run read back, and failures that end the mirror, not the run."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import RunConfig
from pipeline.mirrors.mirrors import Mirrors
from pipeline.mirrors.service import logged_in, mode_of
from pipeline.mirrors.to_wandb import WandbMirror
from pipeline.run.directory import RunDir
from pipeline.run.result import Record
from pipeline.sweep.grid import grid
from pipeline.training.recorder import Recorder
from pipeline.training.trainer import train
from tests.conftest import changed
from tests.support.studies import study


def test_logged_in_by_key_or_netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    assert not logged_in()
    for host in ("api.forge.coreweave.com", "api.wandb.ai"):
        (tmp_path / "netrc").write_text(f"machine {host} login user password 0123\n")
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


def test_the_mode_asked_for_goes_before_the_environments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_API_KEY", "0123")
    assert mode_of("auto") == "disabled"
    assert mode_of("offline") == "offline"
    monkeypatch.delenv("WANDB_MODE")
    assert mode_of("auto") == "online"


def test_a_netrc_that_cannot_be_read_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    (tmp_path / "netrc").write_text("machine\n")
    assert not logged_in()
    assert capfd.readouterr().err.startswith("W&B: the netrc file cannot be read (")


@pytest.fixture
def reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mirrors, "_unreachable", set())


@pytest.mark.usefixtures("reachable")
def test_a_service_that_is_not_there_is_said_once_and_stops_no_run(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tried = []

    def unreachable(mirror: WandbMirror, before: Sequence[Record]) -> None:
        tried.append(mirror)
        raise ConnectionError("no route to host")

    monkeypatch.setattr(WandbMirror, "open", unreachable)
    for seed in (0, 1):
        assert train(changed(tiny, wandb="online", seed=seed), show_progress=False).status == "completed"
    assert len(tried) == 1
    lines = capfd.readouterr().err.splitlines()
    assert lines == [
        f"W&B mirror stopped (ConnectionError: no route to host): W&B lacks the rest of {tiny.run_name} and whatever "
        "this process trains after it; the run goes on, and metrics.jsonl is complete"
    ]


def inspected(config: RunConfig) -> tuple[dict[str, Any], list[dict[str, Any]], int | None]:
    """The run record of a run's only offline file, its history, and the exit code; read with W&B's own tool."""
    (file,) = (config.run_dir / "wandb").glob("offline-run-*/*.wandb")
    wandb = shutil.which("wandb", path=str(Path(sys.executable).parent))
    assert wandb is not None
    said = subprocess.run([wandb, "leet", "inspect", "--json", str(file)], capture_output=True, text=True, check=True)
    records = [json.loads(line) for line in said.stdout.splitlines()]
    (run,) = [record["run"] for record in records if record["type"] == "run"]
    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    (code,) = [record["exit"].get("exit_code", 0) for record in records if record["type"] == "exit"] or [None]
    return run, history, code


def require_mirrored(config: RunConfig) -> None:
    """Every record is there, under the run's own name."""
    run, history, code = inspected(config)
    assert (run["display_name"], run["run_group"], code) == (config.run_name, config.study, 0)
    assert run["config"]["update"]["lr"] == config.lr
    records = RunDir(config.run_dir).records()
    assert [item["_step"] for item in history] == [record.step for record in records]
    assert [item["loss"] for item in history] == [record["loss"] for record in records]


@pytest.mark.slow
def test_every_run_of_a_sweep_is_one_of_its_own(tiny: RunConfig, tmp_path: Path) -> None:
    """In processes of their own, as a user runs it: workers that train several runs each, one of which fails."""
    from tests.sweep.launch.test_local import start_sweep

    config = study(tiny, lrs=(1e-3, 1e-2), wandb="offline", steps=20)
    broken, *fine = grid(config)
    RunDir(broken.run_dir).checkpoint.parent.mkdir(parents=True)
    RunDir(broken.run_dir).checkpoint.write_bytes(b"not a checkpoint")
    process = start_sweep(config, tmp_path / "study.yaml")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "wandb" not in output.lower().replace("--wandb", "")
    for run in fine:
        require_mirrored(run)


@pytest.mark.slow
@pytest.mark.usefixtures("reachable")
def test_a_run_that_fails_is_failed_and_the_next_one_is_not(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed(tiny, wandb="offline", steps=6)
    with monkeypatch.context() as broken:
        broken.setattr(Recorder, "on_train_end", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(config, show_progress=False)
    assert inspected(config)[2] == 1
    after = changed(config, seed=1)
    train(after, show_progress=False)
    require_mirrored(after)
