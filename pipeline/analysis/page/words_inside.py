"""What a coordinate check says, in words: exponents that depart from theory, layers that explode or vanish."""

import math
from collections.abc import Sequence
from fractions import Fraction

from pipeline.analysis.inside.check import COMPARED, FINITE_WIDTH, Ladder, Slope
from pipeline.analysis.page import words, words_theory
from pipeline.analysis.study import cells
from pipeline.entries.kinds import FIRST

COLUMNS = COMPARED
"""Quantities of the table and of the figure."""

SPECTRA = ("operator_norm_update", "alignment_effective", "alignment_propagating")
"""Of a second table, where they were recorded."""

HEADS = {
    "effective": "effective updates",
    "propagating": "propagating updates",
    "output": "activations",
    "operator_norm_update": "norm of the update",
    "alignment_effective": "alignment of update and input",
    "alignment_propagating": "of initial weight and change",
}
SAME = 0.02  # exponents that nobody need tell apart
LOST = 0.25
"""Slope of an effective update beyond which a layer explodes or vanishes: theory has multiples of 1/2, and what lies
nearer to 0 than to these is what small widths bend."""

_LAYERS = {
    "embedding": "the embedding",
    "input": "the input layer",
    "norms": "the norms' gains and biases",
    "first hidden": "the first hidden layer",
    "hidden": "hidden layers",
    "readout": "the readout",
    "biases": "the biases",
    "qk-norm": "the qk-norms",
    "readout bias": "the readout's bias",
    "q": "queries",
    "k": "keys",
    "v": "values",
    "attn.proj": "the attention's projection",
    "mlp.fc": "the MLP's first layer",
    "mlp.proj": "the MLP's projection",
}
_TOLD = {"model.n_layer", "model.activation", "model.norm", "model.train", "model.train_norms", "model.qk_norm",
         "readout_init"}  # fmt: skip
_PLURAL = {"norms", "hidden", "biases", "qk-norm", "q", "k", "v"}

_READOUT_SOURCE = (
    "the readout's propagating update follows |W_0|, which at these widths grows like 1 + sqrt(n/d_out): paper, "
    "section 5.2 and F.7"
)


def power(exponent: float, error: float = math.nan) -> str:
    """``n^0.50 ± 0.04``, with the standard error; without one where there is none."""
    text = f"n^{words.number(exponent)}"
    return text if math.isnan(error) else f"{text} ± {words.number(error)}"


def predicted_power(exponent: float) -> str:
    """``n^0``, ``n^-1/2``; fractions of small denominator as such."""
    clean = Fraction(exponent).limit_denominator(4)
    text = str(clean) if abs(float(clean) - exponent) < 1e-9 else words.number(exponent)
    return f"n^{text.replace('-', words.MINUS)}"


def lr_rule(ladder: Ladder) -> str:
    """Such as ``lr 1e-3 x (n/256)^-1/2``, with typographic signs."""
    text = f"lr {words.lr(ladder.lr)}"
    if ladder.name:
        return ladder.name
    if ladder.lr_exponent is None:
        return "learning rates of no one exponent"
    if not ladder.lr_exponent:
        return f"{text} at every width"
    exponent = str(ladder.lr_exponent).replace("-", words.MINUS)
    return f"{text} {words.TIMES} (n/{ladder.config.base_width})^{exponent}"


def title(ladder: Ladder) -> str:
    return f"{family(ladder)} · {lr_rule(ladder)}"


def heading(ladder: Ladder) -> str:
    """The title, of a figure that stands alone."""
    return " · ".join((family(ladder), *settings(ladder), lr_rule(ladder)))


def settings(ladder: Ladder) -> list[str]:
    """What its figure has to say of its runs lest it look like that of others: ``3 layers``, ``zero readout``."""
    told = [
        (name, value)
        for name, value in cells.departures(ladder.config).items()
        if (name in _TOLD or name.startswith("mult.")) and name not in ladder.cell
    ]
    return [words.cell(name, cells.text(value)) for name, value in told]


def family(ladder: Ladder) -> str:
    """What its runs have in common but the learning rate."""
    return words.title({"param": ladder.param, "optimizer": ladder.optimizer, "loss": ladder.loss, **ladder.cell})


def subtitle(ladder: Ladder) -> str:
    runs, lost = len(ladder.records), sum(ladder.diverged.values())
    seeds = f"{len(ladder.seeds)} seed{'s' * (len(ladder.seeds) > 1)}"
    text = f"{words.widths_text(ladder.widths)}, {seeds}, {runs} run{'s' * (runs > 1)}"
    text += f", {lost} of them diverged" if lost else ""
    return f"{text}; after step {ladder.steps[-1]}" if ladder.steps else f"{text}; no step that all of them recorded"


def layer_name(label: str) -> str:
    """The group in a sentence."""
    name = label.removesuffix(FIRST)
    text = _LAYERS.get(name, name)
    return f"{text} of the first block" if label.endswith(FIRST) else text


def table_rows(ladder: Ladder, columns: Sequence[str] = COLUMNS) -> list[tuple[str, ...]]:
    """A row per group at the last step, header first: measured exponent with its error beside the predicted one, with
    an exclamation mark where they differ."""
    header = ["", *(cell for name in columns for cell in (HEADS[name], "predicted"))]
    rows = [tuple(header)]
    for label in ladder.labels:
        found = [ladder.group(name, label, ladder.steps[-1]) for name in columns]
        if any(found):
            rows.append((label, *(cell for e in found for cell in _cells(e))))
    return rows


def _cells(e: Slope | None) -> tuple[str, str]:
    if e is None:
        return words.DASH, ""
    measured = words.number(e.exponent)
    if not math.isnan(e.standard_error):
        measured += f" ± {words.number(e.standard_error)}"
    mark = "" if not e.departs else " !"
    return measured, "" if e.predicted is None else predicted_power(e.predicted).removeprefix("n^") + mark


def findings(ladder: Ladder) -> list[str]:
    """Sentences: what departs from theory; what explodes or vanishes, and what to do; or that all is well."""
    if not ladder.steps:
        return ["No step was recorded by every run: nothing to compare."]
    judged = [e for e in ladder.by_group if e.step == ladder.steps[-1] and e.quantity in ("effective", "propagating")]
    apart = [e for e in judged if e.departs]
    said = _departures(apart)
    slightly = [e for e in judged if e.agrees == "no" and not e.departs and abs(e.exponent - (e.predicted or 0)) > SAME]
    if slightly:
        said.append(_slight_departures(slightly))
    said += _advice([e for e in judged if e.quantity == "effective"])
    if not any(e.agrees in ("yes", "no") for e in judged):
        said.append(_nothing_to_compare(ladder, judged))
    elif not apart:
        said.append("Effective and propagating updates go with width as predicted, in every group of weights.")
    if ladder.theory is not None and any(_is_between(e, ladder) for e in judged):
        source = words.capital(_READOUT_SOURCE)
        said.append(f"{source}; d_out is {ladder.config.d_out:,} here.")
    said += _clipping(ladder)
    if len(ladder.widths) == 2:
        said.append("Two widths show a slope, but not whether one power law holds: add a third.")
    if ladder.lr_exponent is None:
        said.append("The learning rates follow no clean power of the width, so nothing is predicted.")
    return said


def _clipping(ladder: Ladder) -> list[str]:
    """Where predictions hang on it: whether they count on it."""
    if ladder.theory is None or not ladder.theory.hangs_on_clipping or ladder.clipping.acts in ("never", "unknown"):
        return []
    often = f"Clipping acted in {words_theory.share(ladder.clipping)} of the steps recorded"
    if ladder.clipping.acts == "always":
        return [f"{often}: predictions count on it."]
    return [f"{often}, not in every one: predictions are without it."]


def _departures(apart: Sequence[Slope]) -> list[str]:
    """A sentence per quantity and predicted exponent, of all the groups that depart from it."""
    alike: dict[tuple[str, float], list[Slope]] = {}
    for e in apart:
        alike.setdefault((e.quantity, e.predicted or 0), []).append(e)
    said = []
    for (quantity, predicted), found in alike.items():
        where = f"where {predicted_power(predicted)} is predicted"
        if len(found) == 1:
            [e] = found
            verb = "go" if abs(e.exponent) < 0.05 else "grow" if e.exponent > 0 else "shrink"
            text = f"{layer_name(e.label)}: {HEADS[quantity]} {verb} as {power(e.exponent, e.standard_error)} {where}."
        else:
            listed = ", ".join(f"{layer_name(e.label)} {power(e.exponent, e.standard_error)}" for e in found)
            text = f"{HEADS[quantity]} depart {where}: {listed}."
        said.append(words.capital(text))
    return said


def _slight_departures(found: Sequence[Slope]) -> str:
    of_quantity: dict[str, list[str]] = {}
    for e in found:
        of_quantity.setdefault(HEADS[e.quantity], []).append(layer_name(e.label))
    listed = "; ".join(f"{head} of {', '.join(names)}" for head, names in of_quantity.items())
    return f"Beyond their errors, but by at most {FINITE_WIDTH:g}, as finite widths allow: {listed}."


def _advice(effective: Sequence[Slope]) -> list[str]:
    """What explodes and what vanishes, and what to do about it; the first block's only where the others do not."""
    lost = [e for e in effective if e.nonzero and abs(e.exponent) > LOST]
    whole = {e.label for e in lost}
    lost = [e for e in lost if e.label.removesuffix(FIRST) not in whole - {e.label}]
    said = []
    for sign, verb, cure in ((1, "explode", "lower"), (-1, "vanish", "raise")):
        found = [e for e in lost if sign * e.exponent > 0]
        if not found:
            continue
        one = len(found) == 1 and found[0].place.group not in _PLURAL
        whose = "its learning rate" if one else "their learning rates"
        if len(found) == 1:
            name, at = layer_name(found[0].label), f" as {power(found[0].exponent)}"
        else:
            names = [f"{layer_name(e.label)} ({power(e.exponent)})" for e in found]
            name, at = f"{', '.join(names[:-1])} and {names[-1]}", ""
        text = f"{name} {verb}{'s' * one}{at}" if sign > 0 else f"the updates of {name} {verb}{at}"
        said.append(f"{words.capital(text)}: {cure} {whose} with width.")
    return said


def _nothing_to_compare(ladder: Ladder, judged: Sequence[Slope]) -> str:
    if judged and all(e.n_seeds < 2 for e in judged):
        return "With one seed nobody can tell whether a slope departs from what is predicted: add seeds."
    if judged and any(e.agrees == "cannot tell" for e in judged):
        return "Without errors nothing can be judged: add a width or seeds."
    return "Theory has no prediction for this setting." if ladder.theory else "Nothing is predicted here."


def _is_between(e: Slope, ladder: Ladder) -> bool:
    """Its prediction is that of 1 + sqrt(n/d_out) over the measured widths."""
    if e.place.layer != "output" or e.quantity != "propagating" or e.predicted is None:
        return False
    return abs(2 * e.predicted - round(2 * e.predicted)) > 1e-6
