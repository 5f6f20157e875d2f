"""Last batches of epochs: one entry each, how many samples so many steps read."""

from collections.abc import Callable

Consumed = Callable[[int, int, int], int]
"""Of steps, samples of an epoch and samples of a batch."""


def full(steps: int, epoch: int, batch: int) -> int:
    """Batches are full: what is left of an epoch is filled up from the next."""
    return steps * batch


def short(steps: int, epoch: int, batch: int) -> int:
    """Every epoch ends with a batch of what is left of it, as with torch's ``DataLoader(drop_last=False)``."""
    epochs, rest = divmod(steps, -(-epoch // batch))
    return epochs * epoch + rest * batch


LAST_BATCHES: dict[str, Consumed] = {"full": full, "short": short}


def steps_of(epochs: int, last_batch: str, epoch: int, batch: int) -> int:
    """The steps after which `epochs` are read."""
    steps = epochs * epoch // batch
    while LAST_BATCHES[last_batch](steps, epoch, batch) < epochs * epoch:
        steps += 1
    return steps
