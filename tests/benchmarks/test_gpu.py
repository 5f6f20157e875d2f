"""What waits for a GPU, in small on a CPU: every part runs and leaves what it found."""

import json
from pathlib import Path

import pytest

from benchmarks import gpu


@pytest.mark.slow
def test_every_part_leaves_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--device", "cpu", "--tiny", "--minutes", "60", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["gpu", *arguments])
    assert gpu.main() == 0
    found = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in gpu.PARTS}
    assert found["step"][0]["peer / product"]["plain loop"]
    assert [entry["exit code"] for name in ("runs", "strategies", "study") for entry in found[name]] == [0] * 9
    losses = [entry["final_train_loss"] for entry in found["strategies"]]
    assert losses == pytest.approx([losses[0]] * 6, rel=1e-4)


def test_a_part_is_stopped_when_its_time_is_up(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert gpu._ended(["sleep", "60"], 0.2, log).startswith("stopped after 0 s")
    assert gpu._ended(["sh", "-c", "echo found; exit 3"], 60, log) == f"failed (exit code 3): {log}"
    assert log.read_text() == "found\n"


def test_flops_are_those_of_the_paper_workload() -> None:
    """14.5 TFLOP a step at width 256, 131 072 tokens and all key/value heads."""
    row = gpu.Row("gpt", 256, gpu.VOCABULARY, 256, gpu.LENGTH, gpu.BLOCKS)
    assert gpu.flops(row) == pytest.approx(14.5e12, rel=0.03)
