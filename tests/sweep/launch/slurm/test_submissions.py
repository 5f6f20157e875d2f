"""The ledger of what was submitted."""

from pathlib import Path

import pytest

from pipeline.errors import RequestError
from pipeline.sweep.launch.slurm.submissions import Ledger, Submission


def test_a_full_disk_is_named_by_the_ledger(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "submissions.jsonl")
    book.path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as error:
        book.submitted("a", "7")
    assert error.value.filename == str(book.path)


def test_the_ledger_forgets_a_torn_line_and_refuses_a_damaged_one(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "submissions.jsonl")
    first = Submission("a", "array", ("r1", "r2"), 64, ("sbatch", "x"), "m.txt")
    book.planned(first)
    with book.path.open("a") as stream:
        stream.write('{"event": "submitted", "na')
    assert book.read() == [first]
    book.submitted("a", "7")
    assert [s.job for s in book.read()] == ["7"]
    book.planned(Submission("b", "report", (), None, ("sbatch",)))
    book.refused("b", "no")
    assert [(s.name, s.job, s.refused) for s in book.read()] == [("a", "7", None), ("b", None, "no")]
    book.path.write_text("{}\n" + book.path.read_text())
    with pytest.raises(RequestError, match="is damaged"):
        book.read()
