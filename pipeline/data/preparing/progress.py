"""How far a preparation is, on the terminal."""

import sys
import time

import numpy as np

from pipeline import console
from pipeline.data.preparing.parts import Job

EVERY = 10.0  # seconds between plain lines


class Progress:
    """Tokens written so far, tokens per second and the time left: a bar on a terminal, plain lines elsewhere.

    It looks at the sizes of the files that grow, so the workers need not report.
    """

    def __init__(self, job: Job, expected: float) -> None:
        """`expected` is a guess of all the tokens that the source has."""
        self._job = job
        self._itemsize = np.dtype(job.dtype).itemsize
        self._asked = job.config.tokens if isinstance(job.config.tokens, int) else None
        self._total = min(expected, self._asked) if self._asked else expected
        self._start = self._shown = time.monotonic()
        self._before = self._tokens()
        self._bar = console.Progress(
            round(self._total), "token", done=self._before, desc=f"preparing {job.config.name}", unit_scale=True
        )

    def show(self) -> None:
        now, tokens = time.monotonic(), self._tokens()
        total = max(self._total, tokens)  # which is a guess
        self._bar.at(tokens, total=round(total))
        if not self._bar.terminal and now - self._shown >= EVERY:
            self._shown = now
            rate = (tokens - self._before) / (now - self._start)
            seconds = (total - tokens) / rate if rate else 0.0
            left = f", about {console.duration(seconds)} left" if rate else ""
            print(
                f"preparing {self._job.config.name}: {tokens / 1e6:,.1f} M of about {total / 1e6:,.1f} M tokens, "
                f"{rate:,.0f} tokens/s{left}",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        self._bar.close()

    def _tokens(self) -> int:
        """Of all splits, those of parts that are being written included."""
        size = 0
        for split in self._job.splits:
            for pattern in (f"part-*.{split}", f".part-*.{split}-*"):
                for path in self._job.folder.glob(pattern):
                    try:
                        size += path.stat().st_size
                    except FileNotFoundError:  # finished, and renamed, since
                        continue
        return size // self._itemsize
