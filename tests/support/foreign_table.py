"""Tables as other tools write them, of runs with a known valley."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

LRS = tuple(2.0**-k for k in range(4, 13))


def runs(
    levels: Sequence[float] = (64, 128, 256, 512),
    lrs: Sequence[float] = LRS,
    exponent: float = -0.5,
    seeds: int = 1,
    edge_octaves: float = 2.5,
    **names: str,
) -> pd.DataFrame:
    """One row per run: width, lr, seed and loss, renamed by `names`. The loss is a parabola in log2 lr around
    2^-7 * (level / smallest level)^exponent, nan from `edge_octaves` above it on."""
    rng, rows = np.random.default_rng(0), []
    for level in levels:
        for lr in lrs:
            for seed in range(seeds):
                octaves = math.log2(lr) + 7 - exponent * math.log2(level / levels[0])
                loss = 3 - 0.1 * math.log2(level / levels[0]) + 0.06 * octaves**2 + rng.normal(0, 0.004)
                rows.append(
                    {"width": level, "lr": lr, "seed": seed, "loss": loss if octaves < edge_octaves else math.nan}
                )
    return pd.DataFrame(rows).rename(columns=names)


def ask(**said: Any) -> Any:
    """What a command line with these flags asks of tables: ``columns="width=n"``, ``axis="tokens"``, ``group="a,b"``."""
    from pipeline.analysis.study.tables.columns import Ask, parse_columns, parse_list

    group = said.get("group")
    return Ask(
        parse_columns([said["columns"]] if "columns" in said else []),
        parse_list("--axis", said["axis"], most=2) if "axis" in said else (),
        None if group is None else parse_list("--group", group),
    )
