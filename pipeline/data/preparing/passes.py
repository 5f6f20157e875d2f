"""The passes over the parts of a source, in parallel, and between them the choice of what is kept."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.preparing.parts import DIGEST, Digests, Job, Part, Tokenized, scan, scanned, tokenize, tokenized
from pipeline.data.preparing.progress import Progress
from pipeline.entries.texts import kind_of, suffixes
from pipeline.processes import Workers

AT_ONCE = 2**20  # documents of which copies are looked for together: the search takes several times their digests


def expected_tokens(job: Job, part: Part) -> float:
    """A guess, good within a factor 2: a token of English has 4 to 5 bytes, and packed text about 2."""
    kind = job.config.kind
    packed = [bool(suffixes(file.name)[1]) or kind_of(file.name, kind) == "parquet" for file in part.files]
    return sum(file.size * (0.5 if dense else 0.23) for file, dense in zip(part.files, packed, strict=True))


@dataclass
class Passes:
    """Runs both passes over as many parts as are needed, in parallel, and decides between them what is kept."""

    job: Job
    parts: Sequence[Part]
    workers: int
    """0: in this process."""
    seen: Digests = field(default_factory=lambda: np.empty(0, DIGEST))
    kept: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    done: dict[int, Tokenized] = field(default_factory=dict)
    running: dict["Future[None]", tuple[Callable[..., None], Part]] = field(default_factory=dict)
    started: set[tuple[str, int]] = field(default_factory=set)
    failed: dict[int, BaseException] = field(default_factory=dict)

    def run(self) -> None:
        """Until the parts that are needed are `done`."""
        progress = Progress(self.job, sum(expected_tokens(self.job, part) for part in self.parts))
        with Workers(self.workers) as pool:
            while not self._complete():
                self._decide()
                self._submit(pool)
                finished, _ = wait(self.running, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in finished:
                    what, part = self.running.pop(future)
                    if error := future.exception():
                        self.failed[part.index] = error
                    elif what is tokenize:
                        result = tokenized(self.job, part)
                        assert result is not None
                        self.done[part.index] = result
                        self._release(part)
                self._raise_what_matters()
                progress.show()
        progress.close()
        for _, index in self.started:
            if index not in self.done:  # begun, and not needed in the end
                self._release(self.parts[index])

    def _raise_what_matters(self) -> None:
        """A part that cannot be read is only trouble once the parts before it turn out not to be enough."""
        for index, error in self.failed.items():
            if index < self.needed() and all(before in self.done for before in range(index)):
                raise error

    def _release(self, part: Part) -> None:
        for file in part.files:
            self.job.source.release(file)

    def _complete(self) -> bool:
        needed = self.needed()
        return needed <= len(self.parts) and all(index in self.done for index in range(needed))

    def needed(self) -> int:
        """How many parts, from the first, give the tokens asked for, as far as is known: those not done give none."""
        asked, total = self.job.config.tokens, 0
        assert not isinstance(asked, str)
        if asked is not None:
            for part in self.parts:
                total += self.done[part.index].counted if part.index in self.done else 0
                if total >= asked:
                    return part.index + 1
        return len(self.parts)

    def _decide(self) -> None:
        """Mark the first of equal documents as kept, part by part, as far as the parts in order are scanned."""
        while (index := len(self.kept)) < len(self.parts):
            if (
                ("scan", index) not in self.started
                or index in self.failed
                or any(part.index == index and what is scan for what, part in self.running.values())
            ):
                return
            scan_result = scanned(self.job, self.parts[index])
            assert scan_result is not None
            digests, kept = scan_result[0], []
            for start in range(0, max(1, digests.size), AT_ONCE):
                some, self.seen = first_occurrences(digests[start : start + AT_ONCE], self.seen)
                kept.append(some)
            self.kept[index] = np.concatenate(kept)

    def _submit(self, pool: Workers) -> None:
        """Keep every worker busy with the earliest work there is, and with nothing that will hardly be needed."""
        asked = self.job.config.tokens
        expected = 0.0
        for part in self.parts:
            if len(self.running) > self.workers or (isinstance(asked, int) and expected >= asked):
                return
            done = self.done.get(part.index)
            expected += done.counted if done else self._estimate(part)
            if ("scan", part.index) not in self.started:
                self._start(pool, scan, part)
            elif part.index in self.kept and ("tokenize", part.index) not in self.started:
                self._start(pool, tokenize, part, self.kept[part.index])

    def _start(self, pool: Workers, what: Callable[..., None], part: Part, *arguments: Any) -> None:
        self.started.add((what.__name__, part.index))
        self.running[pool.submit(what, self.job, part, *arguments)] = (what, part)

    def _estimate(self, part: Part) -> float:
        """Tokens of the counted split that a part will have: as the parts before it, else a guess."""
        size = sum(self.parts[index].size for index in self.done)
        if size:
            return part.size * sum(done.counted for done in self.done.values()) / size
        share = self.job.config.validation_fraction
        return expected_tokens(self.job, part) * (share if self.job.counted == "val" else 1 - share)


def first_occurrences(digests: Digests, seen: Digests) -> tuple[NDArray[np.bool_], Digests]:
    """Which digests, in order, occur for the first time, and `seen` (sorted) with them added."""
    unique, first = np.unique(digests, return_index=True)
    places = np.searchsorted(seen, unique)
    new = np.ones(unique.size, dtype=bool)
    inside = places < seen.size
    new[inside] = seen[places[inside]] != unique[inside]
    kept = np.zeros(digests.size, dtype=bool)
    kept[first[new]] = True
    return kept, np.insert(seen, places[new], unique[new])
