"""`pipeline data prepare | info | verify`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.cache import cache_root
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
pipeline data prepare --help lists the keys."""


def main(argv: Sequence[str]) -> int:
    """0: done; 1: damaged shards. Raises `RequestError`, and `OSError` where disk or network fail."""
    verbs: dict[str, Callable[[Sequence[str]], int]] = {"prepare": _prepare, "info": _info, "verify": _verify}
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0)
    if argv[0] not in verbs:
        raise RequestError(f"pipeline data {argv[0]}: choose one of {', '.join(verbs)}")
    return verbs[argv[0]](argv[1:])


def _prepare(argv: Sequence[str]) -> int:
    config, vocab_size = parse_source("data prepare", argv)
    if config.vectors and config.vectors.from_files:
        print(_describe_vectors(prepare_vectors(config.found())))
        return 0
    if config.format not in ("sotu", "text"):
        raise RequestError(f"{config.name} needs no preparing: its format is {config.format}")
    if config.tokenizer == "bpe" and vocab_size is None:
        raise RequestError(
            "a tokenizer is trained for this source: give --vocab_size, the model.vocab_size of your runs"
        )
    folder = _folder(config, vocab_size)
    there = (folder / MANIFEST).exists()
    prepare(config, vocab_size or 0)
    print(("already prepared\n" if there else "") + _describe(folder))
    held = read_manifest(folder)["splits"]["train"]["tokens"]
    if isinstance(config.tokens, int) and held < config.tokens:
        print(f"note      the source has no more: {config.tokens:,} tokens were asked for")
    return 0


def _info(argv: Sequence[str]) -> int:
    if not argv:
        print(f"recipes   {', '.join(shipped('data'))}\ncache     {cache_root()}")
        for manifest in sorted(cache_root().glob(f"[!.]*/{MANIFEST}")):
            print(f"\n{_describe(manifest.parent)}")
        for folder in prepared_vectors():
            print(f"\n{_describe_vectors(folder)}")
        return 0
    config, vocab_size = parse_source("data info", argv)
    if config.vectors and config.vectors.from_files:
        found = prepared_vectors(config.name)
        print("\n\n".join(map(_describe_vectors, found)) or f"{config.name} is not prepared: training will do it")
        return 0
    folder = _folder(config, vocab_size)
    print(_describe(folder) if (folder / MANIFEST).exists() else f"not prepared; it would be {folder}")
    return 0


def _verify(argv: Sequence[str]) -> int:
    config, vocab_size = parse_source("data verify", argv)
    if config.vectors and config.vectors.from_files:
        return _verify_vectors(config.name)
    folder = _folder(config, vocab_size)
    if not (folder / MANIFEST).exists():
        raise RequestError(f"nothing to verify: {folder} is not prepared")
    try:
        manifest = read_manifest(folder)
    except RequestError as error:
        print(error)
        return 1
    wrong = damages(folder, manifest)
    if not (folder / TOKENIZER).is_file() or file_sha256(folder / TOKENIZER) != manifest["tokenizer"]["sha256"]:
        wrong.append(f"{folder / TOKENIZER} does not match the manifest (sha256)")
    for line in wrong:
        print(line)
    print(f"damaged: delete {folder} and prepare it again" if wrong else f"every byte is as prepared: {folder}")
    return 1 if wrong else 0


def _verify_vectors(name: str) -> int:
    folders = prepared_vectors(name)
    if not folders:
        raise RequestError(f"nothing to verify: {name} is not prepared")
    for folder in folders:
        print(f"every byte is as prepared: {folder}" if whole(folder) else f"damaged: delete {folder}")
    return 0 if all(map(whole, folders)) else 1


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
