"""Width exponents of what runs recorded of their inside, as a table: measured, predicted and published (Haas et al.,
2025)."""

from collections.abc import Mapping, Sequence

from pipeline.analysis.inside.check import Ladder, Slope
from pipeline.analysis.page import words, words_inside
from pipeline.analysis.published import checks
from pipeline.console import table

_GROUPS = {"last norm": "norms", "mlp": "mlp.fc", "output": "readout"}
"""What the paper calls a layer -> the group of weights, where its name is another; hidden ones are many groups."""
_AFTER = " after step "


def checked(ladder: Ladder, quantities: Sequence[str], item: str = "") -> list[str]:
    """Lines of a table: the exponents of every group of weights after the last step, with their 95 % intervals, beside
    what theory predicts and what was published under `item` (`Figure E.16`), also after the steps that this names;
    empty where nothing was recorded."""
    known = [row for row in checks(item) if _is_of(row, ladder)]
    steps = {row["quantity"]: int(row["quantity"].partition(_AFTER)[2]) for row in known if _AFTER in row["quantity"]}
    asked = [(quantity, ladder.steps[-1], quantity) for quantity in quantities if ladder.steps]
    asked += [(name.partition(_AFTER)[0], step, name) for name, step in steps.items()]
    rows = [("", "", "measured", "95 % interval", "predicted", "published")]
    for quantity, step, name in asked:
        for label in ladder.labels:
            if quantity in quantities and (e := ladder.group(quantity, label, step)) is not None:
                own = [row for row in known if row["quantity"] == name and _is_layer(row, e)]
                said = "; ".join(f"{words.number(float(row['exponent']))} ({row['kind']})" for row in own)
                low, high = e.exponent - e.half_width, e.exponent + e.half_width
                between = f"{words.number(low)} to {words.number(high)}" if e.half_width == e.half_width else words.DASH
                predicted = "" if e.predicted is None else words_inside.predicted_power(e.predicted).removeprefix("n^")
                title = words_inside.HEADS.get(quantity, quantity.replace("_", " ")) + name.removeprefix(quantity)
                rows.append((label, title, words.number(e.exponent), between, predicted, said))
    return table([[words.plain(cell) for cell in row] for row in rows]) if len(rows) > 1 else []


def _is_of(row: Mapping[str, str], ladder: Ladder) -> bool:
    param, _, readout = row["param"].partition(", ")
    zero = "zero readout" if ladder.config.readout_init == "zero" else ""
    same = (param, readout, row["model"]) == (ladder.param, zero, ladder.config.model.kind)
    return same and ladder.lr_exponent is not None and float(row["lr_exponent"]) == float(ladder.lr_exponent)


def _is_layer(row: Mapping[str, str], e: Slope) -> bool:
    layer = row["layer"]
    if layer == "hidden":
        return (e.place.layer or "").rstrip("1") == layer
    return _GROUPS.get(layer, layer) == e.place.group
