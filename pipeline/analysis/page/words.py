"""Words and numbers for people, with typographic signs; `plain` turns them into ASCII."""

import math
from collections.abc import Mapping, Sequence

from pipeline.analysis.fit.exponent import LrLaw
from pipeline.analysis.fit.fitted import Lr
from pipeline.analysis.fit.study_fit import GroupFit, StudyFit
from pipeline.analysis.study import cells
from pipeline.analysis.study.axis import WIDTH, Axis
from pipeline.analysis.study.cells import WIDTH_OF_MODEL, is_setting
from pipeline.analysis.study.table import GROUP
from pipeline.console import table
from pipeline.entries.losses import LOSSES
from pipeline.entries.optimizers import OPTIMIZERS

MINUS, DASH, TIMES = "\u2212", "\u2013", "\u00d7"

_LABELS = {
    "sp": "SP",
    "mup": "μP",
    "ntp": "NTP",
    "sp_full_align": "SP-full-align",
    "musoli": "MUSOLI",
    "sp_transition": "SP-transition",
}


_ASCII = {
    ord(sign): text
    for sign, text in {MINUS: "-", DASH: "-", TIMES: "x", "±": "+-", "≤": "<=", "≥": ">=", "·": "/", "μ": "mu"}.items()
}


def unit(fit: StudyFit) -> str:
    """What losses are measured in; empty: not known."""
    config = fit.study.config
    if config is None:
        return ""
    if fit.measure.is_accuracy:
        return "share of examples"
    return f"{LOSSES[config.loss].unit} per {'token' if config.n_classes is None else 'example'}"


def label(name: str) -> str:
    """How people write the name of a parameterization, an optimizer or a loss."""
    entry = OPTIMIZERS.get(name) or LOSSES.get(name)
    return _LABELS.get(name, entry.label if entry else name)


_CELLS: dict[str, str | dict[str, str]] = {
    WIDTH_OF_MODEL: "width {}",
    "model.n_layer": "{} layers",
    "steps": "{} steps",
    "stop_after": {"null": "to the last step", "": "stopped after step {}"},
    "warmup_steps": {"0": "no warm-up", "": "{} warm-up steps"},
    "global_batch": "batch {}",
    "grad_clip": {"null": "no clipping", "": "clipping at {}"},
    "model.train_norms": {"true": "trainable norms", "false": "fixed norms"},
    "model.qk_norm": {"true": "qk-norm", "false": "no qk-norm"},
    "model.norm": {"rmsnorm": "RMSNorm", "layernorm": "LayerNorm"},
    "model.train": {"all": "all trained", "readout": "random features", "no_input": "fixed first layer"},
    "model.activation": {"linear": "linear", "relu": "ReLU"},
    "readout_init": {"zero": "zero readout"},
    "data.name": "{}",
}
"""How people write a setting's value; of several wordings that of the value, else that of none."""
_OF_MODELS = tuple(name for name in _CELLS if name.startswith("model."))
"""The settings of models that have words of their own."""


def cell(name: str, value: str) -> str:
    """How people write the value of a setting, or of a column of a table: ``4 layers``, ``hidden lr x 0.5``."""
    text = _CELLS.get(name)
    if isinstance(text, dict):
        text = text.get(value, text.get(""))
    if text is not None:
        return text.format(value)
    if not is_setting(name):
        return label(value)
    section, _, leaf = name.rpartition(".")
    plain_name = leaf.replace("_", " ")
    if value in ("true", "false", "null"):
        return plain_name if value == "true" else f"no {plain_name}"
    return f"{plain_name} {TIMES} {value}" if section == "mult" else f"{plain_name} {value}"


def group_title(group: GroupFit) -> str:
    return title(group.head)


def title(family: Mapping[str, str]) -> str:
    """Of a family of curves, by what makes it one."""
    parts = (label(value) if name in GROUP else cell(name, value) for name, value in family.items())
    return " · ".join(part for part in parts if part) or "All runs"


def called(fit: StudyFit, group: GroupFit) -> str:
    """The group's title, and settings of its model that go along with what tells groups apart: of nets whose depth says
    enough, that these are linear."""
    known = [cells.departures(one.config) for one in fit.groups if one.config is not None]
    own = {} if group.config is None else cells.departures(group.config)
    differ = [key for key in _OF_MODELS if len({cells.value(one, key) for one in known}) > 1 and key not in group.key]
    return " · ".join([group_title(group), *(cell(key, cells.text(cells.value(own, key))) for key in differ)])


def under(group: GroupFit) -> str:
    """``Under SP with AdamW``: how a sentence on a group begins."""
    said = [f"under {label(group.param)}"] if group.param else []
    said += [f"with {label(group.optimizer)}"] if group.optimizer else []
    others = {name: cell(name, value) for name, value in group.key.items() if name not in GROUP and value}
    said += [f"{'at' if all(map(is_setting, others)) else 'in'} {', '.join(others.values())}"] if others else []
    return capital(" ".join(said)) if said else "Over all runs"


def lr(value: float) -> str:
    """``4e-3``, ``1.6e-2``; three digits at most."""
    if not math.isfinite(value):
        return DASH
    mantissa, exponent = f"{value:.2e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}" if int(exponent) else mantissa


def rate(value: float) -> str:
    """A learning rate in two digits, as one would type it: ``8.6e-4``, ``0.49``, ``16``."""
    if not math.isfinite(value):
        return DASH
    mantissa, exponent = f"{value:.1e}".split("e")
    if -1 <= int(exponent) <= 2:
        return f"{float(f'{value:.2g}'):g}"
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def number(value: float, digits: int = 2) -> str:
    """A signed number with a proper minus sign, never minus zero."""
    if not math.isfinite(value):
        return DASH
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", MINUS)


def cost(value: float) -> str:
    """A regret: two digits; what is not worth telling apart from nothing is bounded."""
    if math.isinf(value):
        return "unbounded"
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def exponent(law: LrLaw) -> str:
    """``-0.50 ± 0.10``, without an error where two widths or points on a line allow none."""
    if not law.estimable:
        return "not estimable"
    if math.isnan(law.standard_error) or law.exact:
        return number(law.exponent)
    return f"{number(law.exponent)} ± {number(law.standard_error)}"


def interval(law: LrLaw) -> str:
    return f"{number(law.ci_low)} to {number(law.ci_high)}" if law.has_interval else DASH


def left_out(fit: StudyFit) -> str:
    """Empty, or which runs the fit did not use."""
    study = fit.study
    parts = [f"{study.n_unfinished} unfinished"] if study.n_unfinished else []
    parts += [f"{study.n_failed} failed"] if study.n_failed else []
    total = study.n_unfinished + study.n_failed
    return f"{' and '.join(parts)} run{'s' * (total > 1)} left out" if parts else ""


def lr_with_interval(value: Lr) -> str:
    """``4e-3 (3.5e-3 to 4.6e-3)``, or the value alone where there is no interval."""
    return f"{lr(value.value)} ({span(value)})" if value.has_interval else lr(value.value)


def known(value: Lr | None) -> str:
    """The same in a table."""
    return "not estimable" if value is None else lr_with_interval(value)


def span(value: Lr) -> str:
    """``3.5e-3 to 4.6e-3``, of a learning rate with an interval."""
    return f"{lr(value.low)} to {lr(value.high)}"


def level(value: float) -> str:
    """A level of an axis: ``4096``, ``0.25``, ``1.074B``. Numbers with a letter, and those that are not whole, have
    four digits at most."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.4g}{letter}"
    return str(int(value)) if float(value).is_integer() else f"{value:.4g}"


def at(axis: Axis, value: float) -> str:
    """``width 64``, ``20B tokens``."""
    return axis.one.format(level(value))


def widths_text(widths: Sequence[float]) -> str:
    """``width 64``, ``widths 64, 128 and 256``."""
    return levels(WIDTH, widths)


def symbol(axis: Axis) -> str:
    """Of a level of the axis, in formulas."""
    return axis.symbol or axis.name


def levels(axis: Axis, values: Sequence[float]) -> str:
    """``width 64``, ``widths 64, 128 and 256``, ``1B and 2B tokens``."""
    said = [level(value) for value in values]
    if len(said) == 1:
        return axis.one.format(said[0])
    return axis.many.format(f"{', '.join(said[:-1])} and {said[-1]}")


def capital(text: str) -> str:
    """The text with its first letter large, the others as they are."""
    return text[:1].upper() + text[1:]


def plain(text: str) -> str:
    """ASCII for terminals and logs of any encoding."""
    return text.translate(_ASCII)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines of text, in ASCII."""
    return table([[plain(cell) for cell in row] for row in rows])
