"""What a preparation says while it goes on, where there is no terminal."""

import re
from pathlib import Path

import pytest

from pipeline.config import DataConfig
from pipeline.data.preparing import progress as module
from pipeline.data.preparing.parts import Job
from pipeline.data.preparing.progress import Progress
from pipeline.data.sources import LocalSource


def test_plain_lines_with_tokens_speed_and_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = DataConfig(name="corpus", format="text", path="x", tokens="40M")
    job = Job(LocalSource((), {}), config, ("train", "val"), "<u2", tmp_path)
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    (tmp_path / "part-00000.train").write_bytes(bytes(2_000_000))  # of an earlier attempt
    progress = Progress(job, expected=1e9)
    clock[0] += module.EVERY - 1
    progress.show()
    assert capsys.readouterr().err == "", "not at every look"
    (tmp_path / ".part-00001.train-x7").write_bytes(bytes(6_000_000))  # being written
    (tmp_path / "part-00001.val").write_bytes(bytes(2_000_000))
    (tmp_path / "part-00001.digests").write_bytes(bytes(2_000_000))
    clock[0] += 1
    progress.show()
    line = capsys.readouterr().err
    form = r"preparing corpus: 5\.0 M of about 40\.0 M tokens, 400,000 tokens/s, about 88 s left\n"
    assert re.fullmatch(form, line), line
    (tmp_path / "part-00002.train").write_bytes(bytes(74_000_000))  # more than was expected
    clock[0] += 10
    progress.show()
    progress.close()
    assert "42.0 M of about 42.0 M tokens" in capsys.readouterr().err
