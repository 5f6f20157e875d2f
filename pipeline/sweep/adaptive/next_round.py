"""Which runs an adaptive sweep makes next: a pure function of the runs that are finished, so that it can be stopped,
continued and repeated.

Units: x = log2(lr), in octaves; z = log2(width). A *cell* is a width and a seed: in it, the stability edge is bracketed
and bisected, and the valley is sampled on both its walls, where the loss says more of the optimum than at the bottom.

1. The narrowest width is scanned with coarse steps over twelve octaves, further where an end turns out interesting.
2. The other widths, one after the other, start from what the narrower ones predict.
3. Seeds are added where they tighten the wider of the two intervals most per cost, until both are as narrow as asked.
"""

from pipeline.analysis.study.runs import Runs
from pipeline.sweep.adaptive.cells import open_widths, scan_runs
from pipeline.sweep.adaptive.seeds import replicate
from pipeline.sweep.adaptive.state import Aim, Round, State


def next_round(runs: Runs, aim: Aim) -> Round:
    """The next runs, given every run made so far. The same runs give the same answer."""
    state = State(runs, aim)
    scan = state.new(scan_runs(state))
    if scan:
        return Round(scan, f"scanning width {aim.widths[0]}")
    if state.gave_up:
        return Round((), f"gave up: {state.gave_up}")
    opened = state.new(open_widths(state))
    if opened:
        return Round(opened, f"bracketing width {opened[0].width}")
    return replicate(state)
