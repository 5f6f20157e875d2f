"""The report's interactive charts as plotly's plain data: {"data": [...], "layout": {...}}. Knows plotly's format, not
plotly."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.analysis.fit.fitted import Lr
from pipeline.analysis.fit.study_fit import WidthFit
from pipeline.analysis.page import words
from pipeline.analysis.page.transfer import LossCurve, Transfer
from pipeline.analysis.study.axis import Axis
from pipeline.analysis.study.stability import MARGIN, Cause

Chart = dict[str, Any]

_AXIS: dict[str, Any] = {
    "gridcolor": "#e6e6e6",
    "linecolor": "#999",
    "showline": True,
    "ticks": "outside",
    "zeroline": False,
}
_LAYOUT: dict[str, Any] = {
    "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#222"},
    "paper_bgcolor": "#fff",
    "plot_bgcolor": "#fff",
    "margin": {"l": 56, "r": 12, "t": 44, "b": 48},
    "hoverlabel": {"bgcolor": "#fff", "font": {"color": "#222"}},
    "legend": {"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"},
}


def loss_curves(shown: Transfer) -> Chart:
    """Final loss against the base learning rate, a line per width."""
    return {"data": _curve_traces(shown, 0.0), "layout": _curve_layout(shown, "learning rate")}


def scaled_curves(shown: Transfer) -> Chart:
    """The same against lr * (n / n_base)^-exponent, with buttons for the exponent: fitted (if any), 0, -1/2, -1."""
    law = shown.optimal.law
    choices = [("fitted", law.exponent)] if law.estimable else []
    choices += [("0", 0.0), (f"{words.MINUS}1/2", -0.5), (f"{words.MINUS}1", -1.0)]

    def title(exponent: float) -> str:
        ratio = f"{words.symbol(shown.axis)}/{words.level(shown.base_width)}"
        return f"learning rate {words.TIMES} ({ratio})<sup>{words.number(-exponent)}</sup>"

    traces = {exponent: _curve_traces(shown, exponent) for _, exponent in choices}
    buttons = [
        {
            "label": name,
            "method": "update",
            "args": [
                {"x": [trace["x"] for trace in traces[exponent]]},
                {"xaxis.title.text": title(exponent), "xaxis.autorange": True},
            ],
        }
        for name, exponent in choices
    ]
    menu = {"type": "buttons", "direction": "right", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom",
            "pad": {"t": 0, "b": 2}, "showactive": True, "buttons": buttons, "font": {"size": 12}}  # fmt: skip
    first = choices[0][1]
    layout = _curve_layout(shown, title(first)) | {"updatemenus": [menu], "showlegend": False}
    return {"data": traces[first], "layout": layout}


def exponents(shown: Transfer) -> Chart:
    """Optimal and max-stable (as published: minimal unstable) learning rate against width, with the fitted power
    laws."""
    data: list[dict[str, Any]] = []
    for law, dash in ((shown.optimal, "solid"), (shown.edge, "dash")):
        widths, (ends, line) = [width for width, _ in law.points], law.line
        faces = ["#fff" if n in law.hollow else law.colour for n in widths]
        data += [
            {
                "x": ends, "y": line, "mode": "lines", "line": {"color": law.colour, "dash": dash},
                "name": law.label, "legendgroup": law.name, "hoverinfo": "skip",
            },
            {
                "x": widths, "y": [lr.value for _, lr in law.points], "mode": "markers",
                "text": [
                    f"{words.at(shown.axis, n)}<br>{law.name} {words.lr_with_interval(lr)}" for n, lr in law.points
                ],
                "marker": {"color": faces, "size": 9, "line": {"color": law.colour, "width": 2}},
                "name": law.name, "legendgroup": law.name, "showlegend": False,
                "hovertemplate": "%{text}<extra></extra>",
                "error_y": _error_bars([lr for _, lr in law.points], law.colour),
            },
        ]  # fmt: skip
    data.append(
        {  # the grid's bracket of the edge: from the last stable to the smallest unstable learning rate
            "x": [w.width for w in shown.brackets],
            "y": [w.edge.min_unstable_lr for w in shown.brackets],
            "mode": "markers",
            "marker": {"opacity": 0},
            "showlegend": False,
            "legendgroup": shown.edge.name,
            "hoverinfo": "skip",
            "error_y": {
                "type": "data",
                "symmetric": False,
                "width": 0,
                "thickness": 6,
                "color": "rgba(213,94,0,0.25)",
                "array": [0] * len(shown.brackets),
                "arrayminus": [w.edge.min_unstable_lr - w.edge.last_stable_lr for w in shown.brackets],
            },
        }
    )
    beyond = [w.edge.last_stable_lr for w in shown.beyond]
    if beyond:
        data.append({
            "x": [w.width for w in shown.beyond], "y": beyond, "mode": "markers",
            "marker": {"symbol": "triangle-up-open", "color": shown.edge.colour, "size": 11},
            "name": "stable up to the grid's end",
            "text": [words.at(shown.axis, w.width) for w in shown.beyond],
            "hovertemplate": "%{text}<br>stable up to %{y:.2e}, the largest tried<extra></extra>",
        })  # fmt: skip
    values = [lr.value for law in (shown.optimal, shown.edge) for _, lr in law.points] + beyond
    layout = _LAYOUT | {
        "xaxis": _AXIS
        | {
            "type": "log",
            "title": {"text": shown.axis.title},
            "tickvals": shown.widths,
            "ticktext": list(map(words.level, shown.widths)),
        },
        "yaxis": _AXIS | {"type": "log", "title": {"text": "learning rate"}, **_lr_ticks(np.array(values))},
        "legend": _LAYOUT["legend"] | {"orientation": "v"},
        "margin": _LAYOUT["margin"] | {"l": 70, "t": 64},
    }
    return {"data": data, "layout": layout}


def _error_bars(points: Sequence[Lr], colour: str) -> dict[str, Any]:
    if not all(lr.has_interval for lr in points):
        return {"visible": False}
    up, down = [lr.high - lr.value for lr in points], [lr.value - lr.low for lr in points]
    return {
        "type": "data",
        "symmetric": False,
        "array": up,
        "arrayminus": down,
        "color": colour,
        "thickness": 1.5,
        "width": 3,
    }


def _curve_layout(shown: Transfer, xtitle: str) -> dict[str, Any]:
    rows = len(shown.curves)
    return _LAYOUT | {
        "yaxis": _AXIS | {"title": {"text": shown.loss_name}, "range": list(shown.loss_range), "domain": [0, 0.86]},
        "yaxis2": {
            "domain": [0.88, 1],
            "range": [rows - 0.2, -0.8],
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
            "tickvals": [(rows - 1) / 2],
            "ticktext": ["unstable"],
            "tickfont": {"size": 11, "color": "#666"},
        },
        "xaxis": _lr_axis(shown, xtitle),
    }


def _curve_traces(shown: Transfer, exponent: float) -> list[dict[str, Any]]:
    traces = []
    for place, curve in enumerate(shown.curves):
        traces += [_line(shown, curve, exponent), _crosses(shown, curve, exponent, place)]
    return traces + [_star(shown, curve, exponent) for curve in shown.curves]


def _line(shown: Transfer, curve: LossCurve, exponent: float) -> dict[str, Any]:
    places = np.flatnonzero(curve.finite)
    return {
        "x": (curve.lrs[places] * curve.scale(exponent)).tolist(),
        "y": curve.losses[places].tolist(),
        "text": [_hover(shown.axis, curve.fit, int(place)) for place in places],
        "hovertemplate": "%{text}<extra></extra>",
        "mode": "lines+markers",
        "line": {"color": curve.colour, "width": 2},
        "marker": {"color": curve.colour, "size": 6},
        "name": words.at(shown.axis, curve.fit.width),
        "legendgroup": str(curve.fit.width),
    }


def _star(shown: Transfer, curve: LossCurve, exponent: float) -> dict[str, Any]:
    width, stars = curve.fit.width, [] if curve.star is None else [curve.star]
    return {
        "x": [lr.value * curve.scale(exponent) for lr in stars],
        "y": [curve.fit.best_loss for _ in stars],
        "text": [f"{words.at(shown.axis, width)}<br>optimum there: {words.lr_with_interval(lr)}" for lr in stars],
        "hovertemplate": "%{text}<extra></extra>",
        "mode": "markers",
        "marker": {
            "symbol": "star", "size": 15, "color": curve.colour, "line": {"color": "#fff", "width": 1}, "opacity": 1
        },
        "legendgroup": str(width),
        "showlegend": False,
    }  # fmt: skip


def _crosses(shown: Transfer, curve: LossCurve, exponent: float, place: int) -> dict[str, Any]:
    unstable = np.flatnonzero(curve.fit.unstable)
    return {
        "x": (curve.lrs[unstable] * curve.scale(exponent)).tolist(),
        "y": [place] * len(unstable),
        "yaxis": "y2",
        "text": [_hover(shown.axis, curve.fit, int(i)) for i in unstable],
        "hovertemplate": "%{text}<extra></extra>",
        "mode": "markers",
        "marker": {"symbol": "x-thin", "size": 7, "line": {"color": curve.colour, "width": 2}},
        "legendgroup": str(curve.fit.width),
        "showlegend": False,
    }


def _hover(axis: Axis, w: WidthFit, place: int) -> str:
    """Learning rate, loss and seeds of one point of the curve, and what it is unstable by."""
    curve, n, cause = w.curve, int(w.curve.n_seeds[place]), Cause(int(w.grid.cause[place]))
    seeds = f"{n} seed{'s' * (n > 1)}"
    if cause is Cause.LOST:
        outcome = f"unstable in {curve.n_lost[place]} of {seeds}"
    else:
        reason = _reason(axis, w, place, cause)
        outcome = f"loss {curve.losses[place]:.3f}, {seeds}{reason and f'<br>unstable: {reason}'}"
    best = "<br>best of those tried" if place == w.optimum.index else ""
    return f"{words.at(axis, w.width)}<br>lr {words.lr(float(curve.lrs[place]))}<br>{outcome}{best}"


def _reason(axis: Axis, w: WidthFit, place: int, cause: Cause) -> str:
    accuracy = w.curve.accuracies[place]
    return {
        Cause.STABLE: "",
        Cause.WIDTH: f"nothing at this {axis.noun} trains as well as at a {axis.smaller} one",
        Cause.LEFT: "left, or lost ground, for good",
        Cause.FAILED: f"more than {MARGIN:g} above the best {w.optimum.loss:.3f}"
        if math.isnan(accuracy)
        else f"accuracy {accuracy:.0%}",
    }[cause]


def _lr_axis(shown: Transfer, title: str) -> dict[str, Any]:
    ticks = _lr_ticks(np.concatenate([curve.lrs for curve in shown.curves]))
    return _AXIS | {"type": "log", "title": {"text": title}, **ticks}


def _lr_ticks(lrs: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
    """Ticks such as 4e-3, far enough beyond the data for zooming out and for scaled axes: 1, 2, 5 or powers of ten
    alone."""
    lrs = lrs[np.isfinite(lrs)]
    if not len(lrs):
        return {}
    low, high = math.floor(math.log10(lrs.min())) - 3, math.ceil(math.log10(lrs.max())) + 3
    steps = (1, 2, 5) if lrs.max() / lrs.min() < 500 else (1,)
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    return {"tickvals": ticks, "ticktext": [words.lr(tick) for tick in ticks]}
