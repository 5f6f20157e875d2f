"""Mirrors of a run: what they repeat, on whose account, and that no failure of theirs is the run's."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.cli.main import main
from pipeline.config import RunConfig, WandbConfig
from pipeline.errors import RequestError
from pipeline.mirrors.mirrors import Mirrors, require_packages
from pipeline.mirrors.service import logged_in, mode_of
from pipeline.mirrors.to_wandb import Place, WandbMirror, scaled
from pipeline.run.directory import RunDir
from pipeline.run.result import Record
from pipeline.sweep.grid import grid
from pipeline.training.recorder import Recorder
from pipeline.training.trainer import train
from tests.conftest import changed
from tests.support.studies import study
from tests.support.wandb_offline import require_mirrored


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


def test_settings_go_before_the_environment(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    name = f"tests-{tiny.run_name}"
    assert Place.of(tiny) == Place("width-scaling", None, "tests", name)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_ENTITY", "me")
    assert Place.of(tiny) == Place("mine", "me", "tests", name)
    asked = changed(tiny, wandb=WandbConfig(project="ours", entity="us"))
    assert Place.of(asked) == Place("ours", "us", "tests", name)
    assert asked.run_name == tiny.run_name


def test_names_too_long_for_the_service_stay_apart(tiny: RunConfig) -> None:
    one, other = (Place.of(changed(tiny, study="s" * 150, seed=seed)) for seed in (0, 1))
    assert max(map(len, (one.group, one.id, other.id))) == 128
    assert one.group == other.group
    assert one.id != other.id


def test_scaled_learning_rates_are_the_same_at_the_base_width(tiny: RunConfig) -> None:
    assert scaled(tiny) == {"lr_sqrt_m": tiny.lr, "lr_m": tiny.lr}
    assert scaled(changed(tiny, width=128)) == {"lr_sqrt_m": 2 * tiny.lr, "lr_m": 4 * tiny.lr}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"project": "me/sweeps"}, "--wandb.project must be one name .* the user or team is --wandb.entity"),
        ({"project": "a?b"}, "--wandb.project must be one name"),
        ({"entity": ""}, "--wandb.entity must be one name"),
        ({"entity": "x" * 129}, "--wandb.entity must be one name of at most 128 characters"),
        ({"tags": ("fine", "")}, "--wandb.tags: a tag has 1 to 64 characters"),
        ({"tags": ("x" * 65,)}, "--wandb.tags: a tag has 1 to 64 characters"),
    ],
)
def test_names_that_the_service_would_refuse(tiny: RunConfig, settings: dict[str, object], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        changed(tiny, wandb=WandbConfig(**settings))  # type: ignore[arg-type]


def test_a_mirror_whose_package_is_missing_is_said_before_anything_runs(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.mirrors.mirrors.find_spec", lambda name: None)
    require_packages(tiny)
    with pytest.raises(RequestError, match=r"--mirrors tensorboard needs .*'width-scaling-pipeline\[tensorboard\]'"):
        train(changed(tiny, mirrors=("tensorboard",)))
    assert not tiny.study_dir.exists()


@pytest.mark.parametrize(
    "request_",
    [
        "train --dry_run",
        "sweep --dry_run",
        "sweep --dry_run --launcher slurm --profile example",
        "coordcheck --widths 64,128 --dry_run",
    ],
)
def test_a_dry_run_says_it_too(
    request_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.mirrors.mirrors.find_spec", lambda name: None)
    assert main([*request_.split(), "--mirrors", "trackio", "--out", str(tmp_path / "runs")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "--mirrors trackio needs the package trackio, which is not installed: pip install" in err


def test_the_demo_never_uploads() -> None:
    makefile = Path(__file__).parents[2] / "Makefile"
    (line,) = [line for line in makefile.read_text().splitlines() if "pipeline sweep" in line]
    assert "--wandb disabled" in line


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


DIVERGES = 1e30


@pytest.mark.slow
def test_a_sweep_is_twelve_runs_of_which_each_has_its_own(tiny: RunConfig, tmp_path: Path) -> None:
    """One worker, as a user runs it: the first run diverges, one fails."""
    from tests.sweep.launch.test_local import start_sweep

    config = study(
        tiny, widths=(32, 64), lrs=(1e-3, 1e-2, DIVERGES), seeds=(0, 1), params=("sp",), workers=1, optimizer="sgd",
        weight_decay=0.0, grad_clip=None, wandb=WandbConfig("offline", tags=("draft",)), steps=20, val_interval=7,
    )  # fmt: skip
    runs = grid(config)
    assert len(runs) == 12
    broken = next(run for run in runs if run.lr == 1e-2)
    RunDir(broken.run_dir).seal_file.mkdir(parents=True)  # so that its result cannot be written
    process = start_sweep(config, tmp_path / "study.yaml")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    stray = [line for line in output.lower().splitlines() if "wandb:" in line or "w&b" in line or "warning" in line]
    assert not stray
    for run in runs:
        directory = RunDir(run.run_dir)
        if run is broken:
            assert directory.failure() is not None
            require_mirrored(directory, code=1, tags=("draft",))
            continue
        result, diverged = directory.result(), run.lr == DIVERGES
        assert result is not None
        assert result.status == ("diverged" if diverged else "completed")
        found = require_mirrored(directory, tags=("draft", "diverged") if diverged else ("draft",))
        assert found.summary["diverged"] == int(diverged)


@pytest.mark.slow
@pytest.mark.usefixtures("reachable")
def test_a_run_that_fails_is_failed_and_the_next_one_is_not(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed(tiny, wandb="offline", steps=6)
    with monkeypatch.context() as broken:
        broken.setattr(Recorder, "on_train_end", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(config, show_progress=False)
    require_mirrored(RunDir(config.run_dir), code=1)
    after = changed(config, seed=1)
    train(after, show_progress=False)
    require_mirrored(RunDir(after.run_dir))
    train(config, show_progress=False)  # tried again: one run, which is whole
    require_mirrored(RunDir(config.run_dir))
