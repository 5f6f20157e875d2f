"""Atomic writes: the old content or the new, and no litter."""

from pathlib import Path

import pytest

from pipeline.files import atomic, read_jsonl, write_atomic


def test_replaces_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, "old")
    write_atomic(path, "new é")
    assert path.read_text(encoding="utf-8") == "new é"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, "old")

    def fail_half_way() -> None:
        with atomic(path) as stream:
            stream.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_json_lines_end_with_a_line_break(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": 3}')
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}], "the last line may be half of a longer one"
    for damaged, line in (('{"a": 1}\n{"a\n{}\n', "line 2: "), ("3\n", "line 1: not a JSON object")):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=line):
            read_jsonl(path)
