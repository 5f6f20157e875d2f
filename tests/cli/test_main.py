"""The command line as a user meets it: exit codes, one clear line, no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline import __version__
from pipeline.cli.main import VERBS, main
from pipeline.config import RunConfig, run_settings
from pipeline.run.directory import RunDir
from tests.conftest import changed


def flags(config: RunConfig, path: Path) -> list[str]:
    path.write_text(yaml.safe_dump(run_settings(config)))
    return ["--config", str(path)]


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {verb} " in text for verb in VERBS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert f"pipeline {verb}" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    """What keeps `pipeline --help` far below half a second."""
    code = "import sys; from pipeline.cli.main import main; main(['--help']); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(out.split("\n")[-2].split())
    assert not loaded & {"torch", "numpy", "lightning", "litgpt", "jsonargparse", "yaml", "pandas"}


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["trian"], "no verb 'trian': did you mean train?"),
        (["train", "--widht", "64"], "--widht: unknown key widht, did you mean width?"),
        (["train", "--learning_rate", "1"], "--learning_rate: unknown key learning_rate, did you mean lr?"),
        (["sweep", "--learning-rates", "1"], "--learning-rates: unknown key learning-rates, did you mean lrs?"),
        (["train", "--batch=8"], "--batch: unknown key batch, did you mean global_batch?"),
        (["train", "--batch_size=8"], "--batch_size: unknown key batch_size, did you mean global_batch?"),
        (["train", "--global-batch", "8"], "did you mean global_batch?"),
        (["sweep", "--num_workers", "8"], "did you mean workers?"),
        (["train", "--num_layers", "8"], "did you mean model.n_layer?"),
        (["fit", "runs/x", "--estimater", "paper"], "--estimater: unknown key estimater, did you mean estimator?"),
        (["train", "--width", "100"], "--width 100 is not divisible by the head size 32: use 96 or 128"),
        (["train", "--lr", "-1"], "--lr must be a positive number, got -1"),
        (["train", "--config", "missing.yaml"], "--config missing.yaml: no such file, and no recipe of that name"),
        (["sweep", "--widths", "64,100"], "--width 100 is not divisible by the head size 32: use 96 or 128"),
        (["train", "--study", ".."], "--study must be a plain folder name of at most 200 bytes, got '..'"),
        (["train", "--study", "."], "--study must be a plain folder name of at most 200 bytes, got '.'"),
        (["sweep", "--study", "a/b"], "--study must be a plain folder name of at most 200 bytes, got 'a/b'"),
        (["train", "--data.name", ".."], "--data.name must be a plain folder name of at most 200 bytes, got '..'"),
        (["sweep", "--workers", "-1"], "--workers must be 0 or more, got -1"),
        (["sweep", "--devices", "5000", "--global_batch", "5000"], "--devices 5000: this machine has "),
        (["train", "--devices", "5000", "--global_batch", "5000"], "--devices 5000: this machine has "),
        (["train", "--stall_minutes", "1e300"], "--stall_minutes must be at most 1e8, or null, got 1e+300"),
        (["train", "--stall_minutes", "nan"], "--stall_minutes: expected a number or null, got 'nan'"),
        (["train", "--stall_minutes", "-1"], "--stall_minutes must be positive or null, got -1"),
        (
            ["train", "--data", "dclm", "--data.mode", "stream", "--data.stall_seconds", "1e300"],
            "--data.stall_seconds must be positive and at most 1e9, got 1e+300",
        ),
        (["fit", "no/such/study"], "no/such/study"),
        (["report"], "required"),
    ],
)
def test_a_wrong_request_exits_with_2_and_one_line(
    argv: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("pipeline: error: ")
    assert line in error
    assert error.count("\n") == 1


def test_dry_run_trains_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", "--dry_run", "--width", "128", "--param", "mup", "--out", str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    assert yaml.safe_load(out)["width"] == 128
    for expected in ("# parameters  921,344", "# tokens  ", "# FLOPs  ", "# hidden   0.0015 "):
        assert expected in out
    assert main(["sweep", "--dry_run", "--out", str(tmp_path / "runs")]) == 0
    assert "to run" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_train_twice_and_diverged(tiny: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["train", *flags(tiny, tmp_path / "run.yaml")]
    assert main(argv) == 0
    assert "training loss" in capsys.readouterr().out
    assert main(argv) == 0
    assert "already completed" in capsys.readouterr().out
    assert main([*argv, "--lr", "1e9"]) == 0
    assert "diverged: the training loss was not finite at step" in capsys.readouterr().out
    result = RunDir(changed(tiny, lr=1e9).run_dir).result()
    assert result is not None
    assert result.status == "diverged"


def test_an_unwritable_run_directory(tiny: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    argv = ["train", *flags(changed(tiny, out=str(tmp_path / "file")), tmp_path / "run.yaml")]
    assert main(argv) == 2
    assert "cannot write the run directory" in capsys.readouterr().err


@pytest.mark.slow
def test_who_stops_reading_does_not_stop_the_work(tiny: RunConfig, tmp_path: Path) -> None:
    """`pipeline train | head`: no complaint, and the exit code of the work."""
    command = [sys.executable, "-m", "pipeline", "train", *flags(tiny, tmp_path / "run.yaml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.communicate(timeout=120)[1] == ""
    assert process.returncode == 0
    assert getattr(RunDir(tiny.run_dir).result(), "status", None) == "completed"


def test_an_output_that_is_full_is_said() -> None:
    command = [sys.executable, "-m", "pipeline", "theory", "--all"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "pipeline: error: No space left on device: the output\n")


@pytest.mark.slow
def test_a_full_disk_fails_with_one_line_and_loses_nothing(tiny: RunConfig, tmp_path: Path) -> None:
    """A process may not write files past a limit: what a full disk does to a checkpoint."""
    argv = ["train", *flags(tiny, tmp_path / "run.yaml")]
    code = (
        "import resource, signal, sys; from pipeline.cli.main import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); sys.exit(main(sys.argv[1:]))"
    )
    full = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)
    assert full.returncode == 1
    run = RunDir(tiny.run_dir)
    assert full.stderr.splitlines()[-1].startswith(f"pipeline: error: File too large: {run.checkpoints}")
    assert "Traceback" not in full.stderr
    assert run.result() is None
    assert json.loads(run.result_file.read_text())["status"] == "failed"
    assert not list(run.checkpoints.iterdir()), "no half-written checkpoint"
    assert main(argv) == 0


def test_print_config_reads_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--width", "128", "--lr", "0.25", "--print_config"])
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    with pytest.raises(SystemExit):
        main(["train", "--config", str(tmp_path / "printed.yaml"), "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["width"], printed["lr"]) == (128, 0.25)
    assert printed["model"]["vocab_size"] == 2048, "the default recipe is quick"


@pytest.mark.slow
def test_the_installed_command_runs_anywhere(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("pipeline")
    shown = subprocess.run([command, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "usage: pipeline <verb>" in shown.stdout
    wrong = subprocess.run(
        [command, "train", "--width", "100"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "COLUMNS": "40"},
    )  # fmt: skip
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "pipeline: error: --width 100 is not divisible by the head size 32: use 96 or 128\n"
