"""Tokenizers: trained here, or from a file; and documents -> token ids."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pipeline.errors import RequestError

END_OF_TEXT = "<|endoftext|>"
BATCH_CHARS = 2**19  # text per call of the tokenizer, whose memory grows with it


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of exactly `vocab_size` entries or fewer (short texts have fewer merges), end-of-text first."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size <= len(alphabet):
        raise RequestError(f"--model.vocab_size {vocab_size} is too small for a byte-level BPE: use 257 or more")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_TEXT], initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator((piece for text in texts for piece, _ in _pieces(text)), trainer)
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Raises `RequestError` for a file that is not a tokenizer, or one that cannot end a document."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception on a malformed file
        raise RequestError(f"--data.tokenizer {path} is not a tokenizer.json: {error}") from None
    if tokenizer.token_to_id(END_OF_TEXT) is None:
        raise RequestError(f"--data.tokenizer {path} has no {END_OF_TEXT} token")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # "<|endoftext|>" in a text is text: only what we append ends a document
    tokenizer.encode_special_tokens = True
    return tokenizer


def entries(tokenizer: Tokenizer) -> int:
    """Rows that an embedding needs: the largest id + 1."""
    return 1 + int(max(tokenizer.get_vocab().values()))


def encode(tokenizer: Tokenizer, documents: Iterable[str], ahead: int = BATCH_CHARS) -> Iterator[NDArray[np.uint32]]:
    """Token ids of each document, end-of-text appended. Documents of any length, in bounded memory: about `ahead`
    characters are read before their tokens are given out."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    ids: list[NDArray[np.uint32]] = []
    for batch in _batches(documents, ahead):
        encodings = tokenizer.encode_batch_fast([piece for piece, _ in batch], add_special_tokens=False)
        for encoding, (_, last) in zip(encodings, batch, strict=True):
            ids.append(np.array([*encoding.ids, end] if last else encoding.ids, dtype=np.uint32))
            if last:
                yield ids[0] if len(ids) == 1 else np.concatenate(ids)
                ids = []


def _batches(documents: Iterable[str], chars: int) -> Iterator[list[tuple[str, bool]]]:
    """Pieces of documents, each with whether it is its document's last, in batches of about `chars` characters."""
    batch: list[tuple[str, bool]] = []
    size = 0
    for document in documents:
        for piece, last in _pieces(document):
            batch.append((piece, last))
            size += len(piece)
            if size >= chars:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


# a space is the surest: to some tokenizers punctuation and the line break behind it are one
_UP_TO_THE_LAST_GAP = re.compile(r".*\S(?= )|.*\S(?=[\t\r\n])", re.DOTALL)


def _pieces(document: str) -> Iterator[tuple[str, bool]]:
    """`document` cut every BATCH_CHARS or so before white space, where byte-level tokenizers cut as well: the pieces'
    tokens are the whole's. And whether a piece is the last."""
    start = 0
    while len(document) - start > BATCH_CHARS:
        window = document[start : start + BATCH_CHARS]
        gap = _UP_TO_THE_LAST_GAP.match(window)
        end = start + (gap.end() if gap else len(window))
        yield document[start:end], False
        start = end
    yield document[start:], True
