"""Which parameterizations have rules for which optimizers."""

from pipeline.entries.optimizers import OPTIMIZERS
from pipeline.parameterization.rules import HALF, TABLE


def params_of(optimizer: str, *, bounded: bool = False) -> list[str]:
    """That have rules for it; `bounded`: under which logits start at a bounded size, at any width."""
    return [
        name
        for name, p in TABLE.items()
        if p.knows(OPTIMIZERS[optimizer].families("spectral"))
        and (not bounded or p.init["output"].exponent >= HALF or p.init["output"].r_exponent)
    ]


def pairs(*optimizers: str) -> list[tuple[str, str]]:
    """Parameterization and optimizer, of those that start bounded."""
    return [(name, optimizer) for optimizer in optimizers for name in params_of(optimizer, bounded=True)]
