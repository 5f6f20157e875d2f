"""The command line of verbs on a data source: ``SOURCE [--KEY VALUE ...]``."""

import dataclasses
from collections.abc import Sequence

from pipeline.cli.arguments import STREAMING, read_flags, refuse_unused
from pipeline.config import DataConfig
from pipeline.entries.texts import require_readable
from pipeline.errors import RequestError
from pipeline.files import matching
from pipeline.recipes import build, data_recipe, keys, shipped, typed


@dataclasses.dataclass(frozen=True)
class _Preparation(DataConfig):
    vocab_size: int | None = None
    """Entries of a tokenizer that is trained (--tokenizer bpe)."""


def parse_source(verb: str, argv: Sequence[str]) -> tuple[DataConfig, int | None]:
    """The data source that `argv` asks of `verb`, ``SOURCE [--KEY VALUE ...]``, and ``--vocab_size``.

    Raises `RequestError`; ``--help`` prints and exits.
    """
    source, flags = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("", argv)
    given = read_flags(flags, [key for key in keys(_Preparation) if key not in STREAMING])
    recipe = data_recipe(source) if source else DataConfig()
    if (about := given.pop("help", None)) is not None:
        from pipeline.cli.settings_help import source_lines

        print(*source_lines(verb, _Preparation, recipe, STREAMING, about), sep="\n")
        raise SystemExit(0)
    if not source:
        raise RequestError(f"pipeline {verb}: name a source ({', '.join(shipped('data'))}), a file or a folder")
    values = {key: getattr(recipe, key) for key in keys(DataConfig) if key not in STREAMING} | typed(
        _Preparation, given
    )
    vocab_size = values.pop("vocab_size", None)
    config = build(DataConfig, values)
    refuse_unused(config, given.keys(), "")
    config.check()
    if config.format == "text" and config.path:
        require_readable([str(path) for path in matching(config.path)], config.kind, config.text_field)
    if vocab_size is not None and config.tokenizer != "bpe":
        raise RequestError("--vocab_size is for --tokenizer bpe: this source has a tokenizer")
    return config, vocab_size
