"""Progress of a run: about ten lines where there is no terminal, a bar where there is one."""

import pytest

from pipeline.config import RunConfig
from pipeline.run.result import Record
from pipeline.training.progress import RunProgress
from tests.conftest import changed


def shown(config: RunConfig, *steps: int) -> None:
    progress = RunProgress(config)
    for step in steps:
        values = {"step": step, "loss": 5.0 - step / 100, "tokens_per_second": 12345.6}
        progress(Record(values | ({"val_loss": 4.5} if step == 95 else {})))
    progress.close()


def test_about_ten_plain_lines(tiny: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    shown(changed(tiny, steps=95), *range(1, 96))
    out, err = capsys.readouterr()
    assert [int(line.split("/")[0].removeprefix("step ")) for line in out.splitlines()] == [1, *range(9, 91, 9), 95]
    assert out.splitlines()[0] == "step 1/95  loss 4.9900  12,346 tokens/s"
    assert out.splitlines()[-1] == "step 95/95  loss 4.0500  val 4.5000  12,346 tokens/s"
    assert not err


def test_a_bar_on_a_terminal(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    shown(changed(tiny, steps=95), 40, 95)
    out, err = capsys.readouterr()
    assert not out
    assert "40/95" in err, "a run that goes on begins where it was"
    assert "95/95" in err
    assert "loss 4.050" in err
