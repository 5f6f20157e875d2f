"""What runs are compared by: a loss or an accuracy, and which of a run's values of it."""

from dataclasses import dataclass
from typing import Literal

from pipeline.entries.losses import LOSSES

Metric = Literal["train", "val", "train_accuracy", "val_accuracy"]
Value = Literal["tail", "last", "best"]

_COLUMNS: dict[tuple[Metric, Value], str] = {
    ("train", "tail"): "final_train_loss",
    ("train", "last"): "last_train_loss",
    ("train", "best"): "best_train_loss",
    ("val", "tail"): "final_val_loss",  # validated once at the end: tail and last are the same
    ("val", "last"): "final_val_loss",
    ("val", "best"): "best_val_loss",
    ("train_accuracy", "tail"): "final_train_accuracy",
    ("val_accuracy", "tail"): "final_val_accuracy",
    ("val_accuracy", "last"): "final_val_accuracy",
}
_OF = {
    "train": "training loss",
    "val": "validation loss",
    "train_accuracy": "training error",
    "val_accuracy": "validation error",
}
_WHICH = {"tail": "final", "last": "last", "best": "best"}

METRICS: tuple[Metric, ...] = ("train", "val", "train_accuracy", "val_accuracy")
VALUES: tuple[Value, ...] = ("tail", "last", "best")


@dataclass(frozen=True)
class Measure:
    """`tail` is the mean over the last 5 % of training, `last` the last record, `best` the smallest. Raises
    `ValueError` for a combination that no run records."""

    metric: Metric = "train"
    value: Value = "tail"

    def __post_init__(self) -> None:
        if (self.metric, self.value) not in _COLUMNS:
            known = ", ".join(value for value in VALUES if (self.metric, value) in _COLUMNS)
            raise ValueError(f"--value {self.value} is not recorded for {self.metric}; choose from {known}")

    @property
    def column(self) -> str:
        """Of the run table."""
        return _COLUMNS[self.metric, self.value]

    @property
    def is_accuracy(self) -> bool:
        """Then 1 - accuracy, the error rate, is what is minimized."""
        return self.metric.endswith("accuracy")

    def unit(self, loss: str) -> str:
        """Of what is minimized, under a training loss."""
        return "error rate" if self.is_accuracy else LOSSES[loss].unit

    @property
    def name(self) -> str:
        """What is minimized, as people call it: final training loss."""
        return f"{_WHICH[self.value]} {_OF[self.metric]}"


TRAINING_LOSS = Measure()
