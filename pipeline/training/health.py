"""Health of a run, so that it neither hangs nor dies for nothing: signals that ask it to stop, and a watchdog."""

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_HEARD = [n for n in STOP_SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
"""Without what nohup has this process ignore."""
_LAST_WORDS = 20.0  # seconds that writing down a stall may take


class StopSignals:
    """`STOP_SIGNALS` as a wish to stop at the next step boundary, with a checkpoint."""

    def __init__(self) -> None:
        self.asked = False

    def listen(self) -> None:
        """From now on; where the process has several threads, only in the first."""
        handle_stop_signals(self._ask)

    def _ask(self, *_: Any) -> None:
        self.asked = True


def handle_stop_signals(how: Any) -> None:
    """Have Python's `signal.SIG_DFL`, `signal.SIG_IGN` or a function handle them; does nothing in a second thread."""
    if threading.current_thread() is threading.main_thread():
        for number in _HEARD:
            signal.signal(number, how)


class Watchdog:
    """Ends the process when nobody calls `beat` for so many minutes, and writes where every thread of it stands.

    A context manager; `minutes` None: never. `ending` is called before the end, with the reason.
    """

    def __init__(self, minutes: float | None, stacks: Path, ending: Callable[[str], None]) -> None:
        self.minutes, self.stacks, self.ending = minutes, stacks, ending
        self._last = time.monotonic()
        self._done = threading.Event()

    def beat(self) -> None:
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        self.beat()
        if self.minutes is not None:
            threading.Thread(target=self._watch, args=(60 * self.minutes,), name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def _watch(self, seconds: float) -> None:
        while not self._done.wait(max(0.01, self._last + seconds - time.monotonic())):
            if time.monotonic() - self._last >= seconds:
                self._end()

    def _end(self) -> None:
        reason = f"no step for {self.minutes:g} minutes (--stall_minutes); {self.stacks} says where it stood"
        # a disk that hangs would hold these words up for ever
        faulthandler.dump_traceback_later(_LAST_WORDS, exit=True)
        try:
            with self.stacks.open("w") as stream:
                faulthandler.dump_traceback(stream)
            self.ending(reason)
        finally:
            print(f"pipeline: error: {reason}", file=sys.stderr, flush=True)
            faulthandler.dump_traceback(sys.stderr)
            os._exit(1)  # a thread that hangs in a collective hears nothing else
