"""What was published beside what was measured (Haas et al., 2025): which exponents hold for a group, and as a table."""

from collections.abc import Sequence
from dataclasses import asdict

from pipeline.analysis.fit.fitted import QUANTITIES
from pipeline.analysis.fit.study_fit import GroupFit, StudyFit
from pipeline.analysis.page import words
from pipeline.analysis.published import Exponent, exponents
from pipeline.console import table
from pipeline.entries.optimizers import OPTIMIZERS


def facts(fit: StudyFit, group: GroupFit) -> dict[str, str]:
    """What is known of a group that published settings are told apart by; empty for runs that nobody knows."""
    config = fit.study.config
    if config is None or group.optimizer not in OPTIMIZERS:
        return {}
    model = {"train": "all", **asdict(config.model)}
    norms = "trained" if config.model.train_norms else "fixed"
    return {
        "model": model["kind"],
        "depth": str(model["n_layer"]),
        "activation": model["activation"],
        "param": group.param,
        "optimizer": OPTIMIZERS[group.optimizer].family,
        "loss": group.loss,
        "train": model["train"],
        "norms": norms if config.model.qk_norm else "no qk-norm",
        "data": config.data.name,
    }


Published = Sequence[Sequence[Exponent]]
"""By group of a fit."""


def published(fit: StudyFit, item: str | None = None) -> Published:
    """For every group the exponents published for its very setting, data included; or with `item` those of that figure
    or table, whatever their model, depth and data."""
    apart = () if item is None else ("model", "depth", "data")
    of_item = exponents(item=item)
    return [[one for one in of_item if one.holds_for(facts(fit, group), apart)] for group in fit.groups]


def beside(fit: StudyFit, found: Published) -> list[str]:
    """Lines of a table: measured and published exponents of every group, by quantity; empty where there is none."""
    rows: list[Sequence[str]] = []
    for group, of_group in zip(fit.groups, found, strict=True):
        for quantity in QUANTITIES:
            law, known = group.fitted.laws[quantity], [one for one in of_group if one.quantity == quantity]
            if known:
                interval = f"95 %: {words.interval(law)}" if law.has_interval else ""
                rows.append((words.group_title(group), quantity, words.exponent(law), "measured", interval))
            rows += [("", "", words.number(one.exponent), one.stated, f"{one.setting}: {one.source}") for one in known]
    head = ("", "", "exponent", "", "")
    return table([[words.plain(cell) for cell in row] for row in (head, *rows)]) if rows else []
