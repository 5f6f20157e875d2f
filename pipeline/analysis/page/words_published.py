"""What was published beside what was measured (Haas et al., 2025): which exponents hold for a group, and as a table."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import zip_longest

from pipeline.analysis.fit.fitted import QUANTITIES
from pipeline.analysis.fit.study_fit import GroupFit, StudyFit
from pipeline.analysis.page import words
from pipeline.analysis.published import Exponent, exponents, item_of
from pipeline.console import table
from pipeline.entries.losses import LOSSES
from pipeline.entries.optimizers import OPTIMIZERS


def facts(fit: StudyFit, group: GroupFit) -> dict[str, str]:
    """What is known of a group that published settings are told apart by; empty for runs that nobody knows."""
    config = group.config or fit.study.config
    if config is None or group.optimizer not in OPTIMIZERS:
        return {}
    model = {"train": "all", **asdict(config.model)}
    norms = "trained" if config.model.train_norms else "fixed"
    loss = LOSSES[group.loss].theory or group.loss
    return {
        "model": model["kind"],
        "depth": str(model["n_layer"]),
        "activation": model["activation"],
        "param": group.param,
        "optimizer": group.optimizer if OPTIMIZERS[group.optimizer].matrices else OPTIMIZERS[group.optimizer].family,
        "loss": "mse of normalized logits" if config.model.logit_norm != "none" else loss,
        "train": model["train"],
        "norms": norms if config.model.qk_norm else "no qk-norm",
        "data": config.data.name,
    }


Published = Sequence[Sequence[Exponent]]
"""By group of a fit."""


_LOOSER = ((), ("data",), ("data", "depth"), ("data", "depth", "model"))
"""Facts that a group of another figure may differ in, in the order in which they are given up."""


def published(fit: StudyFit, item: str | None = None) -> Published:
    """For every group the exponents published for its very setting, data included; or with `item` those of that figure
    or table: for its setting, else whatever their data, else depth, else model."""
    of_item = exponents(item=item)
    found = []
    for group in fit.groups:
        known = facts(fit, group)
        tries = ([one for one in of_item if one.holds_for(known, but)] for but in (_LOOSER if item else _LOOSER[:1]))
        found.append(next(filter(None, tries), []))
    return found


def asked(fit: StudyFit, text: str) -> Published | None:
    """What ``--published`` asks for: auto, off (None) or an item (`item_of`). Raises `RequestError` for one of which
    nothing was published."""
    return None if text == "off" else published(fit, None if text == "auto" else item_of(text))


def beside(fit: StudyFit, found: Published | None) -> list[str]:
    """Lines of a table: the measured exponents of every group, by quantity, with their 95 % intervals, and what was
    published beside them."""
    rows: list[Sequence[str]] = [("", "", "measured", "95 % interval", *(() if found is None else ("published", "")))]
    for group, of_group in zip(fit.groups, found or [()] * len(fit.groups), strict=True):
        for quantity in QUANTITIES:
            law, known = group.fitted.laws[quantity], [one for one in of_group if one.quantity == quantity]
            said = [(words.number(one.exponent), f"{one.stated}; {one.setting}: {one.source}") for one in known]
            head = (words.called(fit, group), quantity, words.exponent(law), words.interval(law))
            rows += [
                (*cells, *(() if found is None else one))
                for cells, one in zip_longest([head], said or [(words.DASH, "")], fillvalue=("",) * len(head))
            ]
    return table([[words.plain(cell) for cell in row] for row in rows])
