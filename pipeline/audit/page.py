"""An audit as one self-contained HTML page: what it amounts to, what departs, the coordinate check and every tensor."""

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.analysis.page.figures import STYLE
from pipeline.analysis.page.tables import to_json, write_text
from pipeline.audit import words
from pipeline.audit.audit import Audit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HERE = Path(__file__).parent
_STYLE = _HERE.parent / "analysis" / "page" / "report.css"
COLUMNS = {
    "effective": r"effective update $\|(W_t - W_0) x_t\|$",
    "propagating": r"propagating update $\|W_0 (x_t - x_0)\|$",
    "output": r"activations at the start $\|W_0 x_0\|$",
}
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
    off = {finding.label for finding in audit.findings}
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(10, 0.6 + 1.9 * len(roles)), layout="constrained")
        grid = drawn.subplots(len(roles), len(COLUMNS), squeeze=False, sharex=True)
        for place, role in enumerate(roles):
            for column, (quantity, title) in enumerate(COLUMNS.items()):
                axes = grid[place, column]
                axes.set(xscale="log", yscale="log")
                axes.set_xticks(list(evidence.widths), [str(width) for width in evidence.widths])
                axes.minorticks_off()
                tops = []
                for end in evidence.ends:
                    one = evidence.exponent(quantity, end.label)
                    if end.role == role and one is not None:
                        departs = end.label in off
                        axes.plot(
                            evidence.widths, one.means, marker="o", ms=2.5, lw=1.3, zorder=3 if departs else 2,
                            color=OFF if departs else FOUND, alpha=0.9 if departs else 0.55,
                        )  # fmt: skip
                        tops.append((one.means[0], evidence.update_expected(
                            audit.named.parameterization, end, audit.named.offset)))  # fmt: skip
                if not tops:
                    axes.text(0.5, 0.5, "zero", transform=axes.transAxes, ha="center", va="center", color="#888888")
                    axes.tick_params(left=False, labelleft=False)
                elif quantity == "effective" and (slope := tops[0][1]) is not None:
                    top = 1.6 * max(start for start, _ in tops)
                    line = [top * (width / evidence.widths[0]) ** slope for width in evidence.widths]
                    axes.plot(evidence.widths, line, "--", lw=1, color=PREDICTED)
                if place == 0:
                    axes.set_title(title)
                if place == len(roles) - 1:
                    axes.set_xlabel("width $n$")
            grid[place, 0].set_ylabel(role, fontweight="bold")
    return drawn
