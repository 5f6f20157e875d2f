"""The run directory: torn lines, cutting back, strict JSON, locks, final losses."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import DataConfig, RunConfig
from pipeline.errors import RequestError
from pipeline.run.directory import RunDir
from pipeline.run.result import RunResult


@pytest.fixture
def run(tiny: RunConfig) -> RunDir:
    run = RunDir(tiny.run_dir)
    run.create(tiny, "fingerprint")
    return run


def test_config_reads_back_and_names_versions(run: RunDir, tiny: RunConfig) -> None:
    assert run.config() == tiny
    assert "torch:" in run.config_file.read_text()
    run.create(tiny, "fingerprint")  # again: fine
    with pytest.raises(RequestError, match="was started on other data"):
        run.create(tiny, "other")


def test_torn_last_line_is_ignored_and_cut_off(run: RunDir) -> None:
    with run.appending() as metrics:
        for step in (1, 2, 3):
            metrics.append({"step": step, "loss": float("nan") if step == 3 else 1.5})
    with run.metrics_file.open("a") as stream:
        stream.write('{"step": 4, "lo')
    assert [r["step"] for r in run.records()] == [1, 2, 3]
    assert run.records()[-1]["loss"] is None
    run.cut_back(2)
    assert run.metrics_file.read_text() == '{"step": 1, "loss": 1.5}\n{"step": 2, "loss": 1.5}\n'


def test_a_full_disk_is_named_by_the_file(run: RunDir, tiny: RunConfig) -> None:
    run.path.mkdir(parents=True, exist_ok=True)
    for path, write in (
        (run.starts_file, lambda: run.record_start(tiny, 0)),
        (run.metrics_file, lambda: append(run)),
    ):
        path.unlink(missing_ok=True)
        path.symlink_to("/dev/full")
        with pytest.raises(OSError, match="No space left") as error:
            write()
        assert error.value.filename == str(path)


def append(run: RunDir) -> None:
    with run.appending() as metrics:
        metrics.append({"step": 1, "loss": 1.5})


def ended(status: str = "completed", **other: object) -> RunResult:
    final = {"final_train_loss": 1.25, "final_val_loss": 2.0}
    return RunResult(status, **({"final": final, "steps": 9, "tokens": 72, "seconds": 1.5, "tokens_per_second": 48.0,
                                 "parameters": 100, "diverged_at": None} | other))  # fmt: skip


def test_result_is_strict_json_and_reads_back(run: RunDir) -> None:
    assert run.result() is None
    assert run.failure() is None
    run.write_result(ended("diverged", final={"final_train_loss": float("inf"), "final_val_loss": None}, diverged_at=9))
    assert json.loads(run.result_file.read_text(), parse_constant=pytest.fail)["final_train_loss"] is None
    assert run.result() == ended("diverged", final={"final_train_loss": None, "final_val_loss": None}, diverged_at=9)
    run.write_result(result := ended(final={"final_train_loss": 1.0, "final_val_loss": 2.0, "final_val_accuracy": 0.5}))
    assert run.result() == result
    assert list(json.loads(run.result_file.read_text())) == [
        "status", "final_train_loss", "final_val_loss", "final_val_accuracy", "steps", "tokens", "seconds",
        "tokens_per_second", "parameters", "diverged_at",
    ]  # fmt: skip


def test_a_failed_run_may_be_tried_again_and_says_why(run: RunDir) -> None:
    run.record_failure("ValueError: no")
    assert run.result() is None
    assert run.failure() == "ValueError: no"
    run.write_result(ended())
    assert run.failure() is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "not a JSON object"),
        ("{}", "no 'status'"),
        (json.dumps(ended().to_json() | {"status": "bogus"}), "status 'bogus'"),
        (json.dumps(ended().to_json() | {"status": ["completed"]}), r"status \['completed'\]"),
        (json.dumps({k: v for k, v in ended().to_json().items() if k != "steps"}), "no 'steps'"),
        (json.dumps(ended().to_json() | {"final_train_loss": "low"}), "final_train_loss 'low' is no number"),
    ],
)
def test_a_damaged_result_is_one_line(run: RunDir, content: str, reason: str) -> None:
    run.result_file.write_text(content)
    with pytest.raises(
        RequestError, match=rf"result\.json is damaged \({reason}.*\): delete {run.path} to run it again"
    ):
        run.result()


def test_a_run_is_trained_by_one_process(run: RunDir) -> None:
    code = (
        "import sys, pathlib; from pipeline.run.directory import RunDir\n"
        "with RunDir(pathlib.Path(sys.argv[1])).lock(): pass"
    )
    with run.lock():
        other = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, check=False)
    assert "is being trained by another process" in other.stderr
    with run.lock():
        pass


def test_an_unwritable_place_is_one_line(tiny: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match=r"cannot write the run directory .* choose another --out"):
        RunDir(tmp_path / "file" / "run").create(tiny, "x")


@pytest.fixture
def sealed(run: RunDir) -> RunDir:
    """Finished."""
    with run.appending() as metrics:
        for step in (1, 6, 12):
            metrics.append({"step": step, "loss": 5.0})
    run.write_result(ended())
    return run


def test_what_a_run_left_is_as_it_left_it(sealed: RunDir) -> None:
    sealed.require_sealed(sealed.config(), sealed.records())
    for file in (sealed.config_file, sealed.metrics_file, sealed.result_file, sealed.seal_file):
        content = file.read_bytes()
        file.write_bytes(content.replace(b"1", b"2", 1))
        with pytest.raises(RequestError, match=f"{file.name} is damaged .*: delete {sealed.path} to run it again"):
            sealed.require_sealed(sealed.config(), sealed.records())
        file.write_bytes(content)
    sealed.metrics_file.unlink()
    with pytest.raises(RequestError, match=r"metrics\.jsonl is damaged \(it is missing\)"):
        sealed.require_sealed(sealed.config(), sealed.records())


@pytest.mark.parametrize(
    ("file", "change", "why"),
    [
        ("metrics_file", lambda text: "\n".join(reversed(text.split("\n")[:-1])) + "\n", "its steps do not ascend"),
        ("metrics_file", lambda text: text.replace('"step": 6', '"step": 1'), "its steps do not ascend"),
        ("metrics_file", lambda text: text.replace('"step": 6', '"step": true'), "its steps do not ascend"),
        ("config_file", lambda text: text.replace("seed: 0", "seed: 1", 1), "it says sp-adamw-w32-lr1e-2-s1"),
        ("config_file", lambda text: text.replace("lr: 0.01", "lr: 0.02", 1), "it says sp-adamw-w32-lr2e-2-s0"),
    ],
)
def test_a_run_without_a_seal_has_its_name_and_its_records(sealed: RunDir, file: str, change: Any, why: str) -> None:
    sealed.seal_file.unlink()
    sealed.require_sealed(sealed.config(), sealed.records())
    path = getattr(sealed, file)
    path.write_text(change(path.read_text()))
    with pytest.raises(RequestError, match=f"{path.name} is damaged \\({why}"):
        sealed.require_sealed(sealed.config(), sealed.records())


def test_settings_of_another_hash_are_not_the_runs(tiny: RunConfig) -> None:
    own = dataclasses.replace(tiny, data=DataConfig())
    assert own.contradiction(own.run_name) is None
    other = dataclasses.replace(own, steps=13)
    assert other.contradiction(own.run_name) == f"its settings have the hash {other.run_name[-8:]}"
    assert other.contradiction("a name of its own") is None
    # what its text was cannot be known any more
    assert dataclasses.replace(tiny, steps=13).contradiction(tiny.run_name) is None
