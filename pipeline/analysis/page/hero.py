"""The first figure: learning rate against width, what to take at every width and how sure that is."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from pipeline.analysis.fit.study_fit import WidthFit
from pipeline.analysis.page import words
from pipeline.analysis.page.answer import BEYOND, Shown
from pipeline.analysis.page.svg import Panel, Point, apart
from pipeline.analysis.study.axis import Axis

ON_ONE = 3
"""Groups that share the axes; more stand side by side."""


def rates(shown: Sequence[Shown], axis: Axis, size: Point, named: bool) -> Markup:
    """Learning rate against width: what to take at every width, trained (filled) and beyond (hollow), the band that
    holds the best rate, and what is stable."""
    known = [row for one in shown for row in one.answer.rows]
    values = [value for row in known for value in _values(row.prediction.optimal, row.value, row.prediction.safe)]
    values += [w.optimum.lr for one in shown for w in _untold(one)]
    lost = [
        (one, w, lr)
        for one in shown
        for w in one.group.widths
        for lr in w.curve.lrs[w.unstable & (w.curve.lrs >= (w.optimum.lr if w.optimum.index is not None else 0))]
    ]
    tried = {(w.width, float(lr)) for one in shown for w in one.group.widths for lr in w.curve.lrs}
    values = values or [lr for _, lr in tried]
    low, high = min(values) / 2.5, max(values) * 2.5
    tried = {(width, lr) for width, lr in tried if low < lr < high}
    lost = [(one, w, lr) for one, w, lr in lost if low < lr < high]
    widths = sorted({row.width for row in known})
    widest = max(w.width for one in shown for w in one.group.widths)
    narrow = size[0] < 500
    room = (1.35 if narrow else 1.25) ** max(1.0, math.log2(widths[-1] / widths[0]) / 6)
    label = f"Learning rate against {axis.noun}: " + ". ".join(
        f"{one.title}: " + ", ".join(f"{row.lr} at {words.level(row.width)}" for row in one.answer.rows)
        for one in shown
    )
    panel = Panel.of(
        size, label, (widths[0] / room, widths[-1] * room), (low, high), y_log=True,
        x_ticks=apart(widths, 4 if narrow else 9), x_title=axis.title, y_title="learning rate",
        margins=(28, (38 if narrow else 118) if named else 12, 36, 48),
    )  # fmt: skip
    drawing, x, y = panel.drawing, panel.x, panel.y
    between = math.sqrt(widest * BEYOND[0] * widest)
    drawing.parts.insert(
        0, f'<rect class="zone" x="{x(between):.1f}" y="{y.end:.1f}" width="{x.end - x(between):.1f}" '
        f'height="{y.start - y.end:.1f}"/>',
    )  # fmt: skip
    drawing.text("tick", (min((x(between) + x.end) / 2, size[0] - 66), 24), "not trained: predicted", "middle")
    aside = {one.place: (i - (len(shown) - 1) / 2) * 7.0 for i, one in enumerate(shown)}
    for width, lr in sorted(tried):
        drawing.line("tried", [(x(width) - 5, y(lr)), (x(width) + 5, y(lr))])
    for one, w, rate in lost:
        at = (x(w.width) + aside[one.place], y(float(rate)))
        drawing.cross(f"x g{one.place}", at, f"{one.title}, {words.at(axis, w.width)}: {words.lr(rate)} was unstable")
    for one in shown:
        _bands(panel, one)
    for one in shown:
        _rates_of(panel, one, axis, 0.0 if len(shown) == 1 else 0.6 * aside[one.place])
    if named:
        _names(panel, shown, narrow)
    return drawing.element("phone" if narrow else "desk")


def _values(*found: object) -> list[float]:
    values: list[float] = []
    for one in found:
        if one is None:
            continue
        values += [one] if isinstance(one, float) else [v for v in vars(one).values() if not math.isnan(v)]
    return values


def _bands(panel: Panel, one: Shown) -> None:
    rows = [row for row in one.answer.rows if row.prediction.optimal is not None]
    held = [(row.width, row.prediction.optimal) for row in rows]
    ends = [(width, best.low, best.high) for width, best in held if best is not None and best.has_interval]
    upper = panel.many([(width, high) for width, _, high in ends])
    panel.drawing.band(
        f"band g{one.place}", upper + panel.many([(width, low) for width, low, _ in reversed(ends)])
    )  # fmt: skip
    safe = [(row.width, row.prediction.safe) for row in one.answer.rows if row.prediction.safe is not None]
    panel.drawing.line(f"safe g{one.place}", panel.many(safe))


def _rates_of(panel: Panel, one: Shown, axis: Axis, aside: float) -> None:
    rows = [row for row in one.answer.rows if row.value is not None and row.prediction.optimal is not None]
    trained = [(row.width, row.value) for row in rows if row.times == 1 and row.value is not None]
    beyond = trained[-1:] + [(row.width, row.value) for row in rows if row.times > 1 and row.value is not None]
    panel.drawing.line(f"line g{one.place}", panel.many(trained))
    panel.drawing.line(f"line dash g{one.place}", panel.many(beyond))
    for row in rows:
        assert row.value is not None
        x, y = panel.at(row.width, row.value)
        said = (
            f"{one.title}, {words.at(axis, row.width)}{'' if row.times == 1 else ', predicted'}: {row.lr} ({row.best})"
        )
        where = (x + (aside if row.times == 1 else 0.0), y)
        panel.drawing.mark(one.place, f"m g{one.place}{'' if row.times == 1 else ' hollow'}", where, said)
    for w in _untold(one):
        x, y = panel.x(w.width) + aside, panel.y(w.optimum.lr)
        said = f"{one.title}, {words.at(axis, w.width)}: best tried {words.rate(w.optimum.lr)}; the best is not known"
        panel.drawing.star(f"m hollow g{one.place}", (x, y), said, 6.5)


def _untold(one: Shown) -> list[WidthFit]:
    """Widths whose best learning rate tried is all that is known of them."""
    return [w for w in one.group.widths if w.best is None and w.optimum.index is not None]


def _names(panel: Panel, shown: Sequence[Shown], narrow: bool) -> None:
    """At the right end of the lines, moved apart where they meet."""
    wanted: list[tuple[float, str, Shown]] = []
    for one in shown:
        last = one.answer.rows[-1]
        short = one.name
        if narrow and len(short) > 6:
            continue
        if last.value is not None and last.prediction.optimal is not None:
            wanted.append((panel.y(last.value), short, one))
        if last.prediction.safe is not None and not narrow:
            wanted.append((panel.y(last.prediction.safe), f"{short} stable up to", one))
    place = -math.inf
    for y, text, one in sorted(wanted, key=lambda entry: entry[0]):
        place = max(y + 4, place + 15)
        bold = "" if text.endswith("to") else " b"
        panel.drawing.text(f"name{bold} g{one.place}", (panel.x.end + 7, place), text)
