"""Atomic writes: the old content or the new, and no litter."""

from pathlib import Path

import pytest

from pipeline.files import atomic, write_atomic


def test_replaces_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, "old")
    write_atomic(path, "new é")
    assert path.read_text(encoding="utf-8") == "new é"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, "old")
    with pytest.raises(ZeroDivisionError), atomic(path) as stream:
        stream.write(b"half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
