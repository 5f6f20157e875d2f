"""The console: tables of text, counts and durations in words, and how far long work is."""

import itertools
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

WIDTH = 118
"""Characters of a line of prose."""


def table(rows: Sequence[Sequence[str]], *, lead: str = "  ", right: bool = False, least: int = 0) -> list[str]:
    """The rows as lines, each column as wide as its widest cell and `least`; `right`: cells end where it ends."""
    sizes = [max(least, *map(len, column)) for column in zip(*rows, strict=True)]
    place = str.rjust if right else str.ljust
    return [lead + "  ".join(map(place, row, sizes)).rstrip() for row in rows]


def wrapped(text: str, lead: str) -> list[str]:
    """`text` as lines of at most `WIDTH` characters, the first one after `lead`, the others indented as far."""
    return textwrap.wrap(text, WIDTH, initial_indent=lead, subsequent_indent=" " * len(lead))


def plural(count: int, noun: str) -> str:
    """``"1 run"``, ``"2 runs"``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration(seconds: float) -> str:
    """``"89 s"``, ``"12 min"``, ``"1.5 h"``."""
    minutes = seconds / 60
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def nbytes(count: float) -> str:
    """``"1.5 GB"``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


class Progress:
    """How far long work is: a bar on a terminal; elsewhere nothing but the lines that the work says itself."""

    def __init__(self, total: int, unit: str, *, done: int = 0, **options: Any) -> None:
        """`options` are tqdm's."""
        self.terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total, unit=unit, initial=done, disable=not self.terminal, dynamic_ncols=True, **options
        )  # fmt: skip

    def at(self, done: int, note: str = "", total: int | None = None) -> None:
        """So much is done, of `total` where that has changed; `note` goes behind the bar."""
        if not self.terminal:
            return
        if total is not None:
            self._bar.total = total
        if note:
            self._bar.set_postfix_str(note, refresh=done == self._bar.n)
        self._bar.update(done - self._bar.n)

    def say(self, line: str) -> None:
        """A line of its own, above the bar where there is one."""
        self._bar.write(line) if self.terminal else print(line, flush=True)

    def close(self) -> None:
        self._bar.close()


class Lanes:
    """A bar under a `Progress` for each of the things that go at once, at most so many; on a terminal alone."""

    def __init__(self, most: int) -> None:
        self._bars = [
            tqdm(total=1, position=1 + place, leave=False, dynamic_ncols=True, bar_format=_LANE, desc="")
            for place in range(most if sys.stderr.isatty() else 0)
        ]

    def show(self, rows: Sequence[tuple[str, int, int, str]]) -> None:
        """Of each thing its name, how much is done of how much, and a note."""
        for bar, row in itertools.zip_longest(self._bars, rows[: len(self._bars)]):
            name, done, total, note = row or ("", 0, 1, "")
            bar.n, bar.total, bar.bar_format = done, max(total, 1), _LANE if row else "{desc}"
            bar.set_postfix_str(note, refresh=False)
            bar.set_description_str(name, refresh=True)

    def close(self) -> None:
        for bar in self._bars:
            bar.close()


_LANE = "  {desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt}{postfix}"
