"""An audit as one self-contained HTML page: what it amounts to, what departs, the coordinate check and every tensor."""

import contextlib
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.analysis.page.figures import STYLE
from pipeline.analysis.page.tables import to_json, write_text
from pipeline.audit import words
from pipeline.audit.audit import Audit
from pipeline.audit.layout import End

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HERE = Path(__file__).parent
_STYLE = _HERE.parent / "analysis" / "page" / "report.css"
COLUMNS = {
    "effective": r"effective update $\|(W_t - W_0) x_t\|$",
    "propagating": r"propagating update $\|W_0 (x_t - x_0)\|$",
    "output": r"activations at the start $\|W_0 x_0\|$",
}
LEAST = 12.0
"""Of a panel: largest over smallest value, so that noise does not fill it."""
FOUND, OFF, PREDICTED = "#1f78bd", "#d9660f", "#444444"


def write(audit: Audit, folder: Path) -> list[Path]:
    """``audit.html`` and ``audit.json`` in the folder. Raises `RequestError` where they cannot be written."""
    with contextlib.suppress(OSError):  # said by what writes
        folder.mkdir(parents=True, exist_ok=True)
    return [
        write_text(folder / "audit.html", render(audit)),
        write_text(folder / "audit.json", to_json(words.data(audit))),
    ]


def render(audit: Audit) -> str:
    """The page. It fetches nothing."""
    import matplotlib as mpl

    drawn = io.StringIO()
    with mpl.rc_context(STYLE):
        figure(audit).savefig(drawn, format="svg", metadata={"Date": None})
    svg = drawn.getvalue()
    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html.jinja").render(
        headline=words.headline(audit),
        setting=words.setting(audit),
        departures=words.departures(audit),
        header=words.HEADER,
        rows=words.rows(audit, every=True),
        legend=words.LEGEND,
        roles=words.roles(audit),
        svg=Markup(svg[svg.index("<svg") :]),
        css=Markup(_STYLE.read_text()),
    )


def figure(audit: Audit) -> "Figure":
    """The coordinate check: rows are roles, columns the quantities, a line per tensor over the widths; those that
    depart stand out, and the slope that the parameterization predicts is dashed."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    evidence = audit.evidence
    roles = list(dict.fromkeys(end.role for end in evidence.ends))
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(10, 0.6 + 1.9 * len(roles)), layout="constrained")
        grid = drawn.subplots(len(roles), len(COLUMNS), squeeze=False, sharex=True)
        for place, role in enumerate(roles):
            for column, (quantity, title) in enumerate(COLUMNS.items()):
                axes = grid[place, column]
                axes.set(xscale="log", yscale="log")
                axes.set_xticks(list(evidence.widths), [str(width) for width in evidence.widths])
                axes.minorticks_off()
                _panel(axes, audit, quantity, [end for end in evidence.ends if end.role == role])
                if place == 0:
                    axes.set_title(title)
                if place == len(roles) - 1:
                    axes.set_xlabel("width $n$")
            grid[place, 0].set_ylabel(role, fontweight="bold")
    return drawn


def _panel(axes: "Axes", audit: Audit, quantity: str, ends: Sequence[End]) -> None:
    evidence, named = audit.evidence, audit.named
    off = {finding.label for finding in audit.findings}
    lines = [(end, one.means) for end in ends if (one := evidence.exponent(quantity, end.label)) is not None]
    if not lines:
        axes.text(0.5, 0.5, "zero", transform=axes.transAxes, ha="center", va="center", color="#888888")
        axes.tick_params(left=False, labelleft=False)
        return
    values = [value for _, means in lines for value in means]
    slope = evidence.update_expected(named.parameterization, lines[0][0], named.offset)
    if quantity == "effective" and slope is not None:
        top = 1.6 * max(means[0] for _, means in lines)
        predicted = [top * (width / evidence.widths[0]) ** slope for width in evidence.widths]
        axes.plot(evidence.widths, predicted, "--", lw=1, color=PREDICTED)
        values += predicted
    for end, means in lines:
        departs = end.label in off
        colour, strength, layer = (OFF, 0.9, 3) if departs else (FOUND, 0.55, 2)
        axes.plot(evidence.widths, means, marker="o", ms=2.5, lw=1.3, color=colour, alpha=strength, zorder=layer)
    middle, half = (
        math.sqrt(max(values) * min(values)),
        max(math.sqrt(max(values) / min(values)) * 1.2, math.sqrt(LEAST)),
    )
    axes.set_ylim(middle / half, middle * half)
