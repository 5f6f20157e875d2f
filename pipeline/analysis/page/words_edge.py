"""The edge in words: which runs it rests on, and where the published criterion draws another."""

import numpy as np

from pipeline.analysis.fit.edgelaw import edge_law
from pipeline.analysis.fit.fitted import LEVEL
from pipeline.analysis.fit.study_fit import GroupFit
from pipeline.analysis.page import words
from pipeline.analysis.study import edges
from pipeline.analysis.study.criterion import brackets, crossings
from pipeline.analysis.study.stability import MARGIN, Cause


def decided(group: GroupFit) -> list[str]:
    """Which runs the edge rests on."""
    cause = group.grid.labels.cause
    counts = {_CAUSES[one]: int(np.sum(cause == one)) for one in _CAUSES}
    told = [f"{count} {text}" for text, count in counts.items() if count]
    return [f"Unstable are {', '.join(told)}; of {len(cause)} runs."] if told else []


_CAUSES = {
    Cause.LOST: "that diverged",
    Cause.LEFT: "that left the stable region, or lost ground, for good",
    Cause.FAILED: "that failed by the published criterion",
    Cause.WIDTH: "at widths that train no better than narrower ones",
}


def islands(group: GroupFit) -> list[str]:
    """Where one threshold per seed is not what the runs show (`edges.islands`)."""
    if not group.estimator.max_stable:
        return []
    found = [
        f"{one.n_stable} of {one.n_runs} at {words.lr(2**one.top)} at {words.at(group.axis, one.width)}, "
        f"above {words.lr(2**one.hole)}"
        for one in edges.islands(group.grid.runs, group.grid.labels)
    ]
    if not found:
        return []
    return [
        f"Above learning rates at which most runs are unstable others are stable ({'; '.join(found)}): the edge has "
        "islands, and its interval reaches across them."
    ]


def by_criterion(group: GroupFit) -> list[str]:
    """Where the published criterion draws another edge than the trajectories."""
    if not group.estimator.max_stable:
        return []
    edges = {w.width: w.largest for w in group.widths}
    apart = [
        one
        for one in crossings(group.grid)
        if (edge := edges[one.width]) is None or not edge.has_interval or one.above < edge.low
    ]
    if not apart:
        return []
    axis = group.axis
    where = ", ".join(
        f"{words.lr(one.lr)} ({words.lr(one.below)} to {words.lr(one.above)}) at {words.at(axis, one.width)}"
        for one in apart
    )
    what = "the accuracy floor" if group.grid.published.n_classes is not None else f"{MARGIN:g} above the best loss"
    slope = ""
    if (
        law := edge_law(brackets(apart))
    ) is not None:  # a line through the crossings alone would be surer than they are
        low, middle, high = law.exponent.quantiles([(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
        slope = f", exponent {words.number(middle)} ({words.number(low)} to {words.number(high)})"
    return [
        f"By the published criterion the edge is another: the curve crosses {what} at {where}{slope}, on a shoulder "
        "where training is still stable."
    ]


def seen(group: GroupFit) -> list[float]:
    """Widths at which a run was stable and another one, above it, was not."""
    return [w.width for w in group.widths if not w.edge.censored]
