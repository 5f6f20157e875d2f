"""Token shards on disk.

A folder holds ``train-00000.bin ...``, ``val-00000.bin ...`` (little-endian uint16 or uint32 token ids),
tokenizer.json, and manifest.json, written last. A window is T + 1 consecutive tokens of one shard; windows overlap by
one token, so every token but a shard's first is predicted once per epoch.
"""

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from pipeline.errors import RequestError
from pipeline.files import file_sha256
from pipeline.sealed import json_sha256, read_sealed, write_sealed

Split = Literal["train", "val"]

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write `manifest` with its format version, the fingerprint of its tokens, and a checksum of itself.

    `manifest` has at least ``name``, ``dtype`` and ``splits``: per split ``documents``, ``tokens`` and ``shards``, a
    list of ``file``, ``tokens``, ``sha256``.
    """
    content = {"format_version": FORMAT_VERSION, "fingerprint": _fingerprint(manifest), **manifest}
    write_sealed(folder / MANIFEST, content, indent=2)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a shard folder. Raises `RequestError` if it is missing, damaged or of another version."""
    path = folder / MANIFEST
    try:
        manifest = read_sealed(path)
        if (version := manifest["format_version"]) != FORMAT_VERSION:
            raise RequestError(f"{path} has format version {version!r}, not {FORMAT_VERSION}: delete {folder}")
        _check(manifest)
    except RequestError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise RequestError(f"{path} is missing or damaged: delete {folder} to prepare it again") from None
    return manifest


def _fingerprint(manifest: Mapping[str, Any]) -> str:
    """Changes with the tokens that training sees, and with nothing else."""
    shards = {split: [shard["sha256"] for shard in entry["shards"]] for split, entry in manifest["splits"].items()}
    return json_sha256({"dtype": manifest["dtype"], "shards": shards})


def _check(manifest: Mapping[str, Any]) -> None:
    """Raises `ValueError` unless the manifest is what the readers rely on."""
    ok = manifest["fingerprint"] == _fingerprint(manifest)
    ok &= manifest["dtype"] in ("<u2", "<u4") and set(manifest["splits"]) <= set(get_args(Split))
    ok &= isinstance(manifest["name"], str) and isinstance(manifest["tokenizer"]["entries"], int)
    for split in manifest["splits"].values():
        tokens = [shard["tokens"] for shard in split["shards"]]
        ok &= all(isinstance(n, int) and n > 0 for n in tokens) and sum(tokens) == split["tokens"]
        ok &= all(re.fullmatch(r"[\w-]+\.bin", shard["file"]) for shard in split["shards"])  # a plain name, no path
    if not ok:
        raise ValueError


def damages(folder: Path, manifest: Mapping[str, Any], splits: tuple[Split, ...] = get_args(Split)) -> list[str]:
    """What is wrong with the shards of these splits, one line each; reads every byte."""
    itemsize = np.dtype(manifest["dtype"]).itemsize

    def damage(shard: Mapping[str, Any]) -> str | None:
        path = folder / shard["file"]
        try:
            if (size := path.stat().st_size) != shard["tokens"] * itemsize:
                return f"data shard {path} has {size} bytes, not {shard['tokens'] * itemsize}"
            if file_sha256(path) != shard["sha256"]:
                return f"data shard {path} does not match its manifest (sha256)"
        except OSError as error:
            return f"data shard {path} cannot be read ({error.strerror})"
        return None

    shards = [shard for split in splits if split in manifest["splits"] for shard in manifest["splits"][split]["shards"]]
    with ThreadPoolExecutor() as pool:  # hashing releases the GIL
        return [line for line in pool.map(damage, shards) if line]
