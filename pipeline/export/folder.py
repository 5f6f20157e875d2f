"""The folder of an export, which appears whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import RequestError
from pipeline.export.note import read_note
from pipeline.files import file_sha256, naming


def check_free(out: Path, run_name: str, step: int) -> None:
    """Raises `RequestError` unless `out` is free, or holds nothing but an earlier export of this step."""
    if not out.exists():
        return
    if not out.is_dir():
        raise RequestError(f"{out} is a file: give another --out")
    there = {str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir()}
    if not there and not any(out.iterdir()):
        return
    try:
        held_run, held_step, files = read_note(out)
    except (OSError, ValueError, KeyError, TypeError):
        raise RequestError(f"{out} is not empty, and holds no export: give another --out") from None
    if (held_run, held_step) != (run_name, step):
        raise RequestError(
            f"{out} holds the export of step {held_step} of {held_run}, not of step {step} of {run_name}: "
            "delete it or give another --out"
        )
    if strangers := sorted(there - files):
        raise RequestError(f"{out} holds {strangers[0]}, which is not of the export: move it or give another --out")


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """A scratch folder that takes the place of `out`, whatever is there, when the block ends without an error."""
    place = out.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    except OSError as error:
        raise RequestError(f"cannot write {out} ({error.strerror}): give another --out") from None
    new, old = scratch / "new", scratch / "old"
    try:
        new.mkdir()
        yield new
        try:
            if place.exists():
                place.rename(old)
            new.rename(place)
        except BaseException:
            if old.exists():
                old.rename(place)
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def finished(folder: Path) -> dict[str, str]:
    """Make what was written durable and readable; the sha256 of every file, by its path in the folder."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        path.chmod(folder.stat().st_mode & 0o666)
        with naming(path), path.open("rb") as stream:
            os.fsync(stream.fileno())
        files[str(path.relative_to(folder))] = file_sha256(path)
    return files
