"""Losses: one entry each. What they compute per chunk of logits stands under the same name in `pipeline.losses`."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

TheoryLoss = Literal["cross_entropy", "mse", "softmax_mse"]
"""Losses whose derivative's scale the theory knows (`theory.propagation`)."""


@dataclass(frozen=True)
class Loss:
    """A training loss, by its `--loss` name."""

    name: str
    label: str
    """As people write it beside an optimizer; empty: it goes without saying."""
    words: str
    """As people write it in a sentence."""
    unit: str
    """What it is measured in, per token or example."""
    theory: TheoryLoss | None
    """Whose predictions hold for it; None: nothing is predicted."""
    judged: bool
    """Whether a final loss far above the best, or an accuracy near chance, makes a run unstable (paper, D.4)."""
    beside: bool = True
    """Whether runs record the cross-entropy beside it."""
    scalar: bool = False
    """Whether one output is held against a real value; else as many as there are classes or tokens against a class."""
    scale: Callable[[Any], float] = lambda c: 1.0
    """Of a `RunConfig`: a constant that the mean over positions is multiplied by."""
    of_micro_batch: bool = False
    """Whether `scale` follows the micro-batch, which then changes the mathematics of a run."""

    def of_guessing(self, d_out: int) -> float:
        """What a model that guesses has, as far as it is known."""
        return math.log(d_out) if self.judged else 0.0


LOSSES: dict[str, Loss] = {
    entry.name: entry
    for entry in (
        Loss("cross_entropy", "", "cross-entropy", "nats", "cross_entropy", judged=True, beside=False),
        Loss("mse", "MSE", "MSE", "squared error", "mse", judged=False),
        Loss("mse_mean", "MSE (mean)", "MSE, mean over outputs", "mean squared error", "mse", judged=False),
        Loss(
            "mse_scalar",
            "scalar MSE",
            "MSE of one output",
            "squared error",
            "mse",
            judged=False,
            beside=False,
            scalar=True,
        ),
        Loss("softmax_mse", "softmax + MSE", "MSE of the softmax", "squared error", "softmax_mse", judged=False),
        Loss(
            "softmax_mse_sum",
            "softmax + MSE (sum)",
            "MSE of the softmax, summed over the micro-batch",
            "squared error times the micro-batch",
            "softmax_mse",
            judged=False,
            scale=lambda c: float(c.micro_batch * c.tokens_per_step // c.global_batch),
            of_micro_batch=True,
        ),
    )
}
