"""`pipeline data prepare | info | verify`."""

import contextlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cache import cache_root
from pipeline.cli.arguments import taken
from pipeline.cli.sources import parse_source
from pipeline.config import DataConfig, ModelConfig
from pipeline.data.preparing.prepare import prepare, prepared_folder
from pipeline.data.preparing.vectors import prepare_vectors, prepared_vectors, read_vectors, whole
from pipeline.data.shards import MANIFEST, TOKENIZER, damages, read_manifest
from pipeline.errors import RequestError
from pipeline.files import file_sha256
from pipeline.recipes import shipped

USAGE = """\
usage: pipeline data prepare SOURCE [--KEY VALUE ...]   text -> token shards; goes on where it was interrupted
       pipeline data info [SOURCE [--KEY VALUE ...]]  what is prepared; without SOURCE, all there is
       pipeline data verify SOURCE [--KEY VALUE ...]  read every byte and compare with the manifest

SOURCE is a data recipe's name, a YAML, a text file or glob, or a prepared folder; \
pipeline data prepare --help lists the keys. --json prints the result as JSON."""


def main(argv: Sequence[str]) -> int:
    """0: done; 1: damaged shards. Raises `RequestError`, and `OSError` where disk or network fail."""
    verbs: dict[str, Callable[[Sequence[str]], _Said]] = {"prepare": _prepare, "info": _info, "verify": _verify}
    as_json, argv = taken(argv, "--json")
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0)
    if argv[0] not in verbs:
        raise RequestError(f"pipeline data {argv[0]}: choose one of {', '.join(verbs)}")
    try:
        with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):  # where what goes on is said
            said = verbs[argv[0]](argv[1:])
    except RequestError as error:  # of a run the flags would be --data.KEY and --model.vocab_size, the source --data
        raise RequestError(re.sub(r"--(?:data |(?:data|model)\.)", _as_typed_here, str(error))) from None
    print(json.dumps(said.content, indent=2) if as_json else said.words)
    return said.code


def _as_typed_here(found: re.Match[str]) -> str:
    return "--" if found[0].endswith(".") else ""


@dataclass(frozen=True)
class _Said:
    """The result of a verb, in words and for scripts."""

    words: str
    content: dict[str, Any]
    code: int = 0


def _prepare(argv: Sequence[str]) -> _Said:
    config, vocab_size = parse_source("data prepare", argv)
    if config.vectors and config.vectors.from_files:
        return _said(prepare_vectors(config.found()), read_vectors, _describe_vectors)
    if config.format not in ("sotu", "text"):
        raise RequestError(f"{config.name} needs no preparing: its format is {config.format}")
    if config.tokenizer == "bpe" and vocab_size is None:
        raise RequestError(
            "a tokenizer is trained for this source: give --vocab_size, the model.vocab_size of your runs"
        )
    folder = _folder(config, vocab_size)
    there = (folder / MANIFEST).exists()
    prepare(config, vocab_size or 0)
    said = _said(folder, read_manifest, _describe)
    words = ("already prepared\n" if there else "") + said.words
    held = read_manifest(folder)["splits"]["train"]["tokens"]
    if isinstance(config.tokens, int) and held < config.tokens:
        words += f"\nnote      the source has no more: {config.tokens:,} tokens were asked for"
    return _Said(words, said.content | {"already_prepared": there})


def _info(argv: Sequence[str]) -> _Said:
    if not argv:
        found = [
            *(_said(path.parent, read_manifest, _describe) for path in sorted(cache_root().glob(f"[!.]*/{MANIFEST}"))),
            *(_said(folder, read_vectors, _describe_vectors) for folder in prepared_vectors()),
        ]
        recipes, cache = list(shipped("data")), str(cache_root())
        words = [f"recipes   {', '.join(recipes)}\ncache     {cache}", *(one.words for one in found)]
        content = {"recipes": recipes, "cache": cache, "prepared": [one.content for one in found]}
        return _Said("\n\n".join(words), content)
    config, vocab_size = parse_source("data info", argv)
    if config.vectors and config.vectors.from_files:
        found = [_said(folder, read_vectors, _describe_vectors) for folder in prepared_vectors(config.name)]
        words = [one.words for one in found] or [f"{config.name} is not prepared: training will do it"]
        return _Said("\n\n".join(words), {"prepared": [one.content for one in found]})
    folder = _folder(config, vocab_size)
    if (folder / MANIFEST).exists():
        one = _said(folder, read_manifest, _describe)
        return _Said(one.words, {"prepared": [one.content]})
    return _Said(f"not prepared; it would be {folder}", {"prepared": [], "would_be": str(folder)})


def _verify(argv: Sequence[str]) -> _Said:
    config, vocab_size = parse_source("data verify", argv)
    if config.vectors and config.vectors.from_files:
        return _verify_vectors(config.name)
    folder = _folder(config, vocab_size)
    if not (folder / MANIFEST).exists():
        raise RequestError(f"nothing to verify: {folder} is not prepared")
    try:
        manifest = read_manifest(folder)
    except RequestError as error:
        return _Said(str(error), {"folder": str(folder), "damages": [str(error)]}, 1)
    wrong = damages(folder, manifest)
    if not (folder / TOKENIZER).is_file() or file_sha256(folder / TOKENIZER) != manifest["tokenizer"]["sha256"]:
        wrong.append(f"{folder / TOKENIZER} does not match the manifest (sha256)")
    end = f"damaged: delete {folder} and prepare it again" if wrong else f"every byte is as prepared: {folder}"
    return _Said("\n".join([*wrong, end]), {"folder": str(folder), "damages": wrong}, int(bool(wrong)))


def _verify_vectors(name: str) -> _Said:
    folders = prepared_vectors(name)
    if not folders:
        raise RequestError(f"nothing to verify: {name} is not prepared")
    good = {folder: whole(folder) for folder in folders}
    words = [f"every byte is as prepared: {one}" if good[one] else f"damaged: delete {one}" for one in folders]
    content = {"whole": {str(folder): is_good for folder, is_good in good.items()}}
    return _Said("\n".join(words), content, int(not all(good.values())))


def _said(folder: Path, read: Callable[[Path], dict[str, Any]], describe: Callable[[Path], str]) -> _Said:
    try:
        content = read(folder)
    except RequestError as error:
        content = {"error": str(error)}
    return _Said(describe(folder), {"folder": str(folder)} | content)


def _folder(config: DataConfig, vocab_size: int | None) -> Path:
    if config.vectors:
        raise RequestError(f"{config.name} is made in memory: there is nothing on disk")
    return prepared_folder(config, vocab_size or ModelConfig().vocab_size)


def _describe_vectors(folder: Path) -> str:
    try:
        manifest = read_vectors(folder)
    except RequestError as error:
        return str(error)
    origin = ", ".join(f"{key} {value}" for key, value in manifest["origin"].items())
    lines = [
        f"{manifest['name']:9} {folder}",
        f"source    {origin}",
        f"examples  {manifest['d_in']:,} values each, {manifest['n_classes']} classes",
        *(f"{split:9} {count:,}" for split, count in manifest["examples"].items()),
    ]
    return "\n".join(lines)


def _describe(folder: Path) -> str:
    try:
        manifest = read_manifest(folder)
    except RequestError as error:
        return str(error)
    source: dict[str, Any] = manifest["source"]
    origin = ", ".join(f"{key} {value}" for key, value in source.items() if key != "files")
    tokenizer = manifest["tokenizer"]
    lines = [
        f"{manifest['name']:9} {folder}",
        f"source    {origin} ({len(source['files'])} files)",
        f"tokenizer {tokenizer['name']}, {tokenizer['entries']:,} entries, {manifest['dtype']}",
    ]
    for split, entry in manifest["splits"].items():
        count = len(entry["shards"])
        lines.append(
            f"{split:9} {entry['tokens']:,} tokens, {entry['documents']:,} documents, {count} shard{'s' * (count != 1)}"
        )
    if "duplicates_removed" in manifest:
        lines.append(f"removed   {manifest['duplicates_removed']:,} exact duplicates")
    lines += [f"{key:9} {manifest[key]}" for key in ("license", "citation") if manifest[key]]
    return "\n".join(lines)
