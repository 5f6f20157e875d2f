"""The local fit in words: how to read it, and what it assumes."""

from pipeline.analysis.fit.study_fit import GroupFit
from pipeline.analysis.page import words_fit

READING = (
    "Exponents and learning rates are posterior medians, ± the posterior's standard deviation; intervals hold 95 % of "
    "it. A width's optimum rests on its own stable runs near its best learning rate; other widths say of its valley's "
    "shape what the runs support, and where the power law, which may wander, expects it. Edges are bracketed by each "
    "seed's last stable and first unstable run, told by trajectories alone. An exponent is the average slope over the "
    "widths trained."
)

# Above this probability that the widths' valleys differ in shape, it is said.
_DIFFERS = 0.9


def notes(group: GroupFit) -> list[str]:
    """What qualifies the numbers of `group`, one sentence each."""
    said = words_fit.notes(group)
    if group.fitted.shape_differs > _DIFFERS:
        said.append(
            "The valleys' shape differs from width to width, so that each width's optimum rests on its own runs alone."
        )
    if all(w.grid.seeds == 1 for w in group.widths):
        said.append(
            "One seed per width: the noise of a run is taken from the scatter around the fitted valleys, and how far "
            "optimum and edge scatter over seeds (about 0.1 and 0.2 octave) is assumed, not measured."
        )
    return said
