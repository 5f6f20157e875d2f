"""Sealed JSON: files that hold a checksum of their own content, so that damage is never taken for content."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.files import write_atomic


def json_sha256(content: Any) -> str:
    """Hex sha256 of what JSON can hold, whatever the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_sealed(path: Path, content: Mapping[str, Any], *, seal: str = "sha256", indent: int | None = None) -> None:
    """Replace `path` by `content` and, under the key `seal`, its checksum; all or nothing. Indented for people."""
    text = json.dumps({**content, seal: json_sha256(content)}, indent=indent)
    write_atomic(path, text + ("\n" if indent else ""))


def read_sealed(path: Path, *, seal: str = "sha256") -> dict[str, Any]:
    """The content that `write_sealed` was given. Raises `OSError`, and `ValueError` naming what is wrong."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name}: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name}: not a JSON object")
    if content.pop(seal, None) != json_sha256(content):
        raise ValueError(f"wrong checksum of {path.name}")
    return content
