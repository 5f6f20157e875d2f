"""The figures of a fit, as matplotlib's objects: show them in a notebook, draw on, or `save` them."""

from typing import TYPE_CHECKING

from pipeline.analysis.fit.study_fit import StudyFit
from pipeline.analysis.page import inside
from pipeline.analysis.page.figures import lr_curves as lr_transfer
from pipeline.analysis.page.figures import save
from pipeline.analysis.page.figures_compare import best_figure as best_losses
from pipeline.analysis.page.figures_compare import compare_figure as comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["best_losses", "comparison", "lr_transfer", "save", "update_sizes"]


def update_sizes(fit: StudyFit) -> "dict[str, Figure]":
    """What the runs of a study recorded of themselves (`pipeline coordcheck`, ``--diagnostics``), by the figures'
    names; empty where they recorded nothing."""
    return dict(inside.section(fit).figures)
