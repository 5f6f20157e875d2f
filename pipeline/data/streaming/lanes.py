"""Lanes: what one of the parallel streams of documents reads, and its windows of tokens, era by era.

A lane reads its files one after the other and over again, tokenizes their training documents, end-of-text after each,
and cuts windows of T + 1 tokens that overlap by one. Windows come in eras of fixed size. Everything here is a function
of the lane and of where an era starts, so a worker process can be replaced at any time.
"""

import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.config import DataConfig
from pipeline.console import plural
from pipeline.data.preparing.parts import digest, is_validation
from pipeline.data.sources import Source, SourceFile, documents
from pipeline.data.tokenizer import encode, load_tokenizer
from pipeline.errors import RequestError

Tokens: TypeAlias = NDArray[np.uint32]

AHEAD = 2**14  # characters: little, so that what was read before a failure is given out before it


class Cursor(NamedTuple):
    """A place in a lane: token `token` of the tokens of document `document` of the `file`-th file that it reads."""

    file: int = 0
    document: int = 0
    token: int = 0


class Era(NamedTuple):
    """`windows` (E, T + 1) in the order of the text, and the place where the next era starts."""

    windows: Tokens
    end: Cursor


@dataclass(frozen=True)
class Lane:
    """What a lane reads and how it is cut."""

    number: int
    source: Source
    files: tuple[SourceFile, ...]
    config: DataConfig
    tokenizer: Path
    seq_len: int


class LaneReader:
    """The eras of a lane in turn, from `start` on."""

    def __init__(self, lane: Lane, start: Cursor) -> None:
        self.lane, self.place = lane, start
        self._documents = self._tokenized(start)
        self._held: tuple[Tokens, Cursor] = (np.empty(0, np.uint32), start)

    def era(self) -> Era:
        """The next era. It ends with the token that the one after it starts with: every token is predicted once."""
        size, seq_len = self.lane.config.era, self.lane.seq_len
        pieces: list[Tokens] = []
        missing = size * seq_len + 1
        while missing:
            tokens, place = self._held
            if not tokens.size:
                self._held = next(self._documents)
                continue
            taken = tokens[:missing]
            pieces.append(taken)
            missing -= taken.size
            self._held = (tokens[taken.size :], place._replace(token=place.token + taken.size))
        last, (rest, place) = pieces[-1], self._held
        self._held = (np.concatenate([last[-1:], rest]), place._replace(token=place.token - 1))
        self.place = self._held[1]
        text = np.concatenate(pieces)
        windows = np.lib.stride_tricks.sliding_window_view(text, seq_len + 1)[::seq_len]
        return Era(np.ascontiguousarray(windows), self.place)

    def _tokenized(self, start: Cursor) -> Iterator[tuple[Tokens, Cursor]]:
        places: deque[Cursor] = deque()
        tokenizer = load_tokenizer(self.lane.tokenizer)
        for tokens in encode(tokenizer, self._texts(start, places), AHEAD):
            place = places.popleft()
            yield tokens[place.token :], place

    def _texts(self, start: Cursor, places: deque[Cursor]) -> Iterator[str]:
        """Training documents from `start` on, for ever; where each stands goes to `places`."""
        lane, place, barren = self.lane, start, 0
        while True:
            file = lane.files[place.file % len(lane.files)]
            following = lane.files[(place.file + 1) % len(lane.files)]
            barren += 1
            skipped: Counter[str] = Counter()
            with lane.source.open(file) as path:
                if following != file:
                    threading.Thread(target=_fetch, args=(lane.source, following), daemon=True).start()
                for index, document in enumerate(documents(path, lane.config, skipped)):
                    if index < place.document or is_validation(digest(document), lane.config.validation_fraction):
                        continue
                    places.append(place if index == place.document else Cursor(place.file, index))
                    barren = 0
                    yield document
            if skipped and place.file < len(lane.files):  # said once, not in every epoch
                lines = plural(skipped.total(), "line")
                print(f"{file.name}: skipped {lines} that cannot be read", file=sys.stderr, flush=True)
            if barren == len(lane.files):
                raise RequestError(f"no training document in any of {', '.join(f.name for f in lane.files[:3])}, ...")
            if following != file:
                lane.source.release(file)
            place = Cursor(place.file + 1)


def _fetch(source: Source, file: SourceFile) -> None:
    """Have a file at hand before its turn. Whatever goes wrong will go wrong again then, and be told."""
    try:
        with source.open(file):
            pass
    except (OSError, RequestError):
        return


# ---------------------------------------------------------------------------------------------------------------------
# In a worker process

_lanes: dict[int, Lane] = {}
_readers: dict[int, LaneReader] = {}
"""Of each lane, the reader that read its last era."""


def have_lanes(lanes: Sequence[Lane]) -> None:
    """The lanes that this process will be asked for. Their lists of files are long, and sent once."""
    _lanes.update((lane.number, lane) for lane in lanes)


def read_era(number: int, start: Cursor) -> Era:
    """The era of lane `number` that starts at `start`. Quick where this process read the era before it."""
    reader = _readers.pop(number, None)
    if reader is None or reader.place != start:
        reader = LaneReader(_lanes[number], start)
    era = reader.era()
    _readers[number] = reader
    return era
