"""The run directory: torn lines, cutting back, strict JSON, locks, final losses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.errors import RequestError
from pipeline.recipes import load_run
from pipeline.run.directory import RunDir, final_values, outcome


@pytest.fixture
def run(tiny: RunConfig) -> RunDir:
    run = RunDir(tiny.run_dir)
    run.create(tiny, "fingerprint")
    return run


def test_config_reads_back_and_names_versions(run: RunDir, tiny: RunConfig) -> None:
    assert load_run(run.config_file) == tiny
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


def test_result_is_strict_json(run: RunDir) -> None:
    assert run.result() is None
    run.write_result({"status": "diverged", "final_train_loss": float("inf")})
    assert json.loads(run.result_file.read_text(), parse_constant=pytest.fail)["final_train_loss"] is None
    assert run.result() is not None
    run.write_result({"status": "failed"})
    assert run.result() is None, "a failed run may be tried again"
    run.result_file.write_text("{")
    with pytest.raises(RequestError, match="is damaged"):
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


def test_final_values_average_the_last_twentieth() -> None:
    records = [{"step": s, "loss": float(s)} for s in range(1, 101)]
    records[49]["val_loss"] = 7.0
    assert final_values(records, 100) == {
        "final_train_loss": pytest.approx((96 + 97 + 98 + 99 + 100) / 5),
        "final_val_loss": 7.0,
    }
    assert final_values(records[:3], 3) == {"final_train_loss": 3.0, "final_val_loss": None}
    sparse = [
        {"step": 10, "loss": 2.0, "accuracy": 0.1},
        {"step": 90, "loss": 4.0, "accuracy": 0.5, "val_accuracy": 0.4},
    ]
    assert final_values(sparse, 100) == {
        "final_train_loss": 4.0, "final_val_loss": None, "final_train_accuracy": 0.5, "final_val_accuracy": 0.4,
    }  # fmt: skip
    assert final_values([], 100) == {"final_train_loss": None, "final_val_loss": None}


def test_outcome_in_words() -> None:
    result = {"status": "completed", "final_train_loss": 1.25, "final_val_loss": None, "diverged_at": None}
    assert outcome(result) == "training loss 1.2500, validation not finite", "the last update may be the one too many"
    assert outcome(result | {"final_val_loss": 2.0}) == "training loss 1.2500, validation 2.0000"
    assert "not finite at step 7" in outcome({"status": "diverged", "diverged_at": 7})


def test_an_unwritable_place_is_one_line(tiny: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match=r"cannot write the run directory .* choose another --out"):
        RunDir(tmp_path / "file" / "run").create(tiny, "x")
