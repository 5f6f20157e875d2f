"""Remembered checksums: right after every change, and not computed twice."""

import os
from pathlib import Path

import pytest

from pipeline import cache
from pipeline.cache import content_sha256
from pipeline.files import file_sha256

OLD = 10**9  # a modification time, ns


def written(path: Path, text: str, modified: int = OLD) -> Path:
    path.write_text(text)
    os.utime(path, ns=(modified, modified))
    return path


@pytest.mark.parametrize("large", [True, False])
def test_a_file_is_hashed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    monkeypatch.setattr(cache, "LARGE_FILE", 10 if large else 10**6)
    monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path / "cache"))
    path = written(tmp_path / "t.txt", "some words and more")
    first = content_sha256(path)
    assert first == file_sha256(path)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "file_sha256", lambda path: pytest.fail(f"{path} is read again"))
        assert content_sha256(path) == content_sha256(tmp_path / "." / "t.txt") == first
    written(path, "some words and less", OLD + 1)
    assert content_sha256(path) == file_sha256(path) != first


def test_a_damaged_memory_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LARGE_FILE", 10)
    monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path / "cache"))
    path = written(tmp_path / "t.txt", "some words and more")
    first = content_sha256(path)
    (memory,) = (tmp_path / "cache" / "sha256").iterdir()
    memory.write_text("damaged")
    assert content_sha256(path) == first == memory.read_text()


def test_a_file_of_this_very_moment_may_change_again_unseen(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("one")
    state = path.stat()
    first = content_sha256(path)
    path.write_text("two")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert content_sha256(path) != first
