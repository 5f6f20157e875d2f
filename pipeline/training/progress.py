"""Progress of a run on the terminal."""

import sys
from typing import Any

from tqdm import tqdm

from pipeline.config import RunConfig
from pipeline.run.result import Record


class Progress:
    """A sink that shows how far a run is: a bar on a terminal, about ten plain lines elsewhere."""

    def __init__(self, config: RunConfig) -> None:
        self.steps, self.every = config.steps, max(1, config.steps // 10)
        self._bar: tqdm[Any] | None = None
        self._next = 1

    def __call__(self, record: Record) -> None:
        step = record.step
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(total=self.steps, initial=step, unit="step", dynamic_ncols=True)
            self._bar.update(step - self._bar.n)
            self._bar.set_postfix_str(f"loss {record['loss']:.3f}", refresh=False)
        elif step >= self._next or step == self.steps:
            self._next = (step // self.every + 1) * self.every
            val = f"  val {record['val_loss']:.4f}" if "val_loss" in record else ""
            print(
                f"step {step}/{self.steps}  loss {record['loss']:.4f}{val}  {record['tokens_per_second']:,.0f} tokens/s",
                flush=True,
            )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
