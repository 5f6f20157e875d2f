"""Atomic writes: the old content or the new, and no litter. Locks, and the ends of files."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.errors import RequestError
from pipeline.files import atomic, locked, naming, read_jsonl, strict_json, tail, write_atomic


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


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o027, 0o640), (0o022, 0o644), (0o002, 0o664)])
def test_files_are_whose_the_umask_says(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "f", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "f").stat().st_mode & 0o777 == mode


def test_a_disk_that_is_full_is_named_by_the_file(tmp_path: Path) -> None:
    """/dev/full takes nothing; what was buffered fails again when the file is closed."""
    (tmp_path / "f").symlink_to("/dev/full")
    path = tmp_path / "f"
    with pytest.raises(OSError, match="No space left") as error, naming(path), path.open("w") as stream:
        stream.write("text")
    assert error.value.filename == str(tmp_path / "f")
    with pytest.raises(FileNotFoundError) as other, naming(tmp_path / "f"):
        (tmp_path / "other").read_text()
    assert other.value.filename == str(tmp_path / "other")


def test_json_lines_end_with_a_line_break(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": 3}')
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}], "the last line may be half of a longer one"
    for damaged, line in (('{"a": 1}\n{"a\n{}\n', "line 2: "), ("3\n", "line 1: not a JSON object")):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=line):
            read_jsonl(path)


def test_a_lock_is_waited_for_or_refused(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    order = []

    def wait() -> None:
        with locked(path):
            order.append("second")

    with locked(path) as descriptor:
        assert os.fstat(descriptor).st_ino == path.stat().st_ino
        with pytest.raises(RequestError, match=r"^somebody is at it$"), locked(path, busy="somebody is at it"):
            pass
        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join(0.2)
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]
    with locked(path, busy="free by now"):
        pass


def test_shared_locks_exclude_only_others(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    shared = locked(path, shared=True), locked(path, shared=True, busy="no")
    with shared[0], shared[1], pytest.raises(RequestError, match="in use"), locked(path, busy="in use"):
        pass
    with locked(path), pytest.raises(RequestError, match="in use"), locked(path, shared=True, busy="in use"):
        pass


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = "import os, pathlib, sys; from pipeline.files import locked\n"
    code += "with locked(pathlib.Path(sys.argv[1])): os._exit(7)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "l")]).returncode == 7
    with locked(tmp_path / "l", busy="held by nobody"):
        pass


def test_the_end_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes("one é two".encode())
    assert tail(tmp_path / "log") == "one é two"
    assert tail(tmp_path / "log", 3) == "two"
    assert tail(tmp_path / "log", 5) == "\ufffd two"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ('{"a": {"b": 1, "b": 1}}', "'b' is given twice"),
        ('{"a": NaN}', "NaN is no finite number"),
        ('{"a": -Infinity}', "-Infinity is no finite number"),
        ('{"a": 1e999}', "1e999 is no finite number"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": 1' + "0" * 5000 + "}", "digits"),
    ],
)
def test_json_is_strict(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        strict_json(text)
