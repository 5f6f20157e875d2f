"""`pipeline ...` again and again in the same processes, so that they start once.

argv[1] is a JSON list of ``[steps, arguments]``. Where `steps` is a number, the last process asks itself by SIGUSR1 to
stop after so many steps.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from pipeline.cli.main import main
from pipeline.training.recorder import Recorder

if __name__ == "__main__":
    begin, end = Recorder.on_train_start, Recorder.on_train_batch_end
    limit: int | None = None

    def on_train_start(self: Recorder, trainer: Any, module: Any) -> None:
        self.first_step = trainer.global_step  # type: ignore[attr-defined]
        begin(self, trainer, module)

    def on_train_batch_end(self: Recorder, trainer: Any, *args: Any) -> None:
        last = trainer.global_rank == trainer.world_size - 1
        if limit and last and trainer.global_step == self.first_step + limit:  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGUSR1)
        end(self, trainer, *args)

    Recorder.on_train_start, Recorder.on_train_batch_end = on_train_start, on_train_batch_end  # type: ignore[method-assign]
    for limit, arguments in json.loads(Path(sys.argv[1]).read_text()):
        try:
            code = main(arguments)
        except SystemExit as stop:  # of a process that is not the first
            code = stop.code
        if code != (1 if limit else 0):
            sys.exit(f"{arguments}: exit code {code}")
