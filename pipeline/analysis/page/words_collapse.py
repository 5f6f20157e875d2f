"""The collapse fit in words: how to read it, and what it assumes."""

from pipeline.analysis.fit.study_fit import GroupFit
from pipeline.analysis.page import words_fit

READING = (
    "Exponents and learning rates are posterior medians, ± the posterior's standard deviation; intervals hold 95 % of "
    "it. Optima are those of one valley shape, fitted to the stable runs of all {nouns} together, so they lie between "
    "the learning rates tried. Edges are bracketed by each seed's last stable and first unstable run. Both allow "
    "single {nouns} to lie off the power law, by a tenth of an octave or so, or as far as the data show."
)


def notes(group: GroupFit) -> list[str]:
    """What qualifies the numbers of `group`, one sentence each."""
    said = words_fit.notes(group)
    if all(w.grid.seeds == 1 for w in group.widths):
        said.append(
            f"One seed per {group.axis.noun}: the noise of a run is taken from the scatter around the fitted valleys, "
            "assumed alike at all learning rates, and how far the edge scatters over seeds is assumed (about 0.2 "
            "octave), not measured."
        )
    if group.fitted.log_loss:
        said.append(
            f"The best loss falls several-fold over {group.axis.nouns}, so valleys were fitted to its logarithm."
        )
    return said
