"""Progress of a run on the terminal."""

from pipeline.config import RunConfig
from pipeline.console import Progress
from pipeline.run.result import Record


class RunProgress:
    """A sink that shows how far a run is: a bar on a terminal, about ten plain lines elsewhere."""

    def __init__(self, config: RunConfig) -> None:
        self.steps, self.every = config.last_step, max(1, config.last_step // 10)
        self._bar: Progress | None = None
        self._next = 1

    def __call__(self, record: Record) -> None:
        step, loss = record.step, record["loss"]
        if self._bar is None:
            self._bar = Progress(self.steps, "step", done=step)
        self._bar.at(step, f"loss {loss:.3f}")
        if not self._bar.terminal and (step >= self._next or step == self.steps):
            self._next = (step // self.every + 1) * self.every
            val = f"  val {record['val_loss']:.4f}" if "val_loss" in record else ""
            self._bar.say(
                f"step {step}/{self.steps}  loss {loss:.4f}{val}  {record['tokens_per_second']:,.0f} tokens/s"
            )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
