"""The report's interactive charts as plotly's plain data: {"data": [...], "layout": {...}}. Knows plotly's format, not plotly."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.analysis.fit.fitted import Lr
from pipeline.analysis.fit.study_fit import GroupFit, StudyFit, WidthFit
from pipeline.analysis.page import words
from pipeline.analysis.page.figures import EDGE_COLOUR, OPTIMUM_COLOUR, colour_by_width, loss_range

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


def loss_curves(fit: StudyFit, group: GroupFit) -> Chart:
    """Final loss against the base learning rate, a line per width."""
    layout = _curve_layout(fit, group, "learning rate") | {"xaxis": _lr_axis(group, "learning rate")}
    return {"data": _curve_traces(fit, group, 0.0), "layout": layout}


def scaled_curves(fit: StudyFit, group: GroupFit) -> Chart:
    """The same against lr * (n / n_base)^-exponent, with buttons for the exponent: fitted (if any), 0, -1/2, -1."""
    base_width = fit.study.config.base_width
    choices = [("fitted", group.optimal.exponent)] if group.optimal.estimable else []
    choices += [("0", 0.0), (f"{words.MINUS}1/2", -0.5), (f"{words.MINUS}1", -1.0)]

    def title(exponent: float) -> str:
        return f"learning rate {words.TIMES} (n/{base_width})<sup>{words.number(-exponent)}</sup>"

    traces = {exponent: _curve_traces(fit, group, exponent) for _, exponent in choices}
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
    layout = _curve_layout(fit, group, title(first)) | {
        "xaxis": _lr_axis(group, title(first)),
        "updatemenus": [menu],
        "showlegend": False,
    }
    return {"data": traces[first], "layout": layout}


def exponents(group: GroupFit) -> Chart:
    """Optimal and max-stable (as published: minimal unstable) learning rate against width, with the fitted power laws."""
    data: list[dict[str, Any]] = []
    optima = [(w.width, w.best) for w in group.widths if w.best is not None]
    edges = [(w.width, w.largest) for w in group.widths if w.largest is not None]
    open_at = {w.width for w in group.widths if w.optimum.at_edge != "no"}
    edge_name = group.estimator.edge_name
    for name, fit, points, colour, dash, hollow in (
        ("optimal", group.optimal, optima, OPTIMUM_COLOUR, "solid", open_at),
        (edge_name, group.max_stable, edges, EDGE_COLOUR, "dash", set[int]()),
    ):
        widths = [width for width, _ in points]
        line = [min(widths), max(widths)] if fit.estimable else []
        data += [
            {
                "x": line, "y": [fit.lr_at(n) for n in line], "mode": "lines", "line": {"color": colour, "dash": dash},
                "name": f"{name}: {words.exponent(fit)}", "legendgroup": name, "hoverinfo": "skip",
            },
            {
                "x": widths, "y": [lr.value for _, lr in points], "mode": "markers",
                "text": [words.lr_with_interval(lr) for _, lr in points],
                "marker": {"color": ["#fff" if n in hollow else colour for n in widths], "size": 9, "line": {"color": colour, "width": 2}},
                "name": name, "legendgroup": name, "showlegend": False,
                "hovertemplate": f"width %{{x}}<br>{name} %{{text}}<extra></extra>",
                "error_y": _error_bars([lr for _, lr in points], colour),
            },
        ]  # fmt: skip
    bracketed = [w for w in group.widths if not w.edge.censored]
    data.append({  # the grid's bracket of the edge: from the last stable to the smallest unstable learning rate
        "x": [w.width for w in bracketed], "y": [w.edge.min_unstable_lr for w in bracketed], "mode": "markers",
        "marker": {"opacity": 0}, "showlegend": False, "legendgroup": edge_name, "hoverinfo": "skip",
        "error_y": {
            "type": "data", "symmetric": False, "width": 0, "thickness": 6, "color": "rgba(213,94,0,0.25)",
            "array": [0] * len(bracketed),
            "arrayminus": [w.edge.min_unstable_lr - w.edge.last_stable_lr for w in bracketed],
        },
    })  # fmt: skip
    beyond = [w for w in group.widths if w.edge.censored and w.optimum.index is not None and w.largest is None]
    if beyond:
        data.append({
            "x": [w.width for w in beyond], "y": [w.edge.last_stable_lr for w in beyond], "mode": "markers",
            "marker": {"symbol": "triangle-up-open", "color": EDGE_COLOUR, "size": 11}, "name": "stable up to the grid's end",
            "hovertemplate": "width %{x}<br>stable up to %{y:.2e}, the largest tried<extra></extra>",
        })  # fmt: skip
    widths = [w.width for w in group.widths]
    values = [lr.value for _, lr in optima + edges] + [w.edge.last_stable_lr for w in beyond]
    layout = _LAYOUT | {
        "xaxis": _AXIS
        | {"type": "log", "title": {"text": "width n"}, "tickvals": widths, "ticktext": [str(n) for n in widths]},
        "yaxis": _AXIS | {"type": "log", "title": {"text": "learning rate"}, **_lr_ticks(np.array(values))},
        "legend": _LAYOUT["legend"] | {"orientation": "v"},
        "margin": _LAYOUT["margin"] | {"l": 70, "t": 64},
    }
    return {"data": data, "layout": layout}


def _error_bars(points: Sequence[Lr], colour: str) -> dict[str, Any]:
    if any(math.isnan(lr.low) for lr in points):
        return {"visible": False}
    up, down = [lr.high - lr.value for lr in points], [lr.value - lr.low for lr in points]
    return {
        "type": "data", "symmetric": False, "array": up, "arrayminus": down, "color": colour, "thickness": 1.5, "width": 3
    }  # fmt: skip


def _curve_layout(fit: StudyFit, group: GroupFit, xtitle: str) -> dict[str, Any]:
    rows = len(group.widths)
    return _LAYOUT | {
        "yaxis": _AXIS | {"title": {"text": fit.measure.name}, "range": list(loss_range(fit)), "domain": [0, 0.86]},
        "yaxis2": {"domain": [0.88, 1], "range": [rows - 0.2, -0.8], "showgrid": False, "zeroline": False, "fixedrange": True,
                   "tickvals": [(rows - 1) / 2], "ticktext": ["unstable"], "tickfont": {"size": 11, "color": "#666"}},
    }  # fmt: skip


def _curve_traces(fit: StudyFit, group: GroupFit, exponent: float) -> list[dict[str, Any]]:
    colours, base_width = colour_by_width(fit), fit.study.config.base_width
    traces = []
    for place, w in enumerate(group.widths):
        factor = (w.width / base_width) ** -exponent
        traces += [_line(w, factor, colours[w.width]), _crosses(w, factor, colours[w.width], place)]
    traces += [_star(w, (w.width / base_width) ** -exponent, colours[w.width]) for w in group.widths]
    return traces


def _line(w: WidthFit, factor: float, colour: str) -> dict[str, Any]:
    places = np.flatnonzero(np.isfinite(w.curve.losses))
    return {
        "x": (w.curve.lrs[places] * factor).tolist(),
        "y": w.curve.losses[places].tolist(),
        "text": [_hover(w, int(place)) for place in places],
        "hovertemplate": "%{text}<extra></extra>",
        "mode": "lines+markers",
        "line": {"color": colour, "width": 2},
        "marker": {"color": colour, "size": 6},
        "name": f"width {w.width}",
        "legendgroup": str(w.width),
    }


def _star(w: WidthFit, factor: float, colour: str) -> dict[str, Any]:
    """The width's optimum, which may lie between the learning rates tried."""
    best = [] if w.best is None else [w.best]
    return {
        "x": [lr.value * factor for lr in best],
        "y": [w.best_loss for _ in best],
        "text": [f"width {w.width}<br>optimum of this width: {words.lr_with_interval(lr)}" for lr in best],
        "hovertemplate": "%{text}<extra></extra>",
        "mode": "markers",
        "marker": {"symbol": "star", "size": 15, "color": colour, "line": {"color": "#fff", "width": 1}, "opacity": 1},
        "legendgroup": str(w.width),
        "showlegend": False,
    }


def _crosses(w: WidthFit, factor: float, colour: str, place: int) -> dict[str, Any]:
    unstable = np.flatnonzero(w.unstable)
    return {
        "x": (w.curve.lrs[unstable] * factor).tolist(),
        "y": [place] * len(unstable),
        "yaxis": "y2",
        "text": [_hover(w, int(i)) for i in unstable],
        "hovertemplate": "%{text}<extra></extra>",
        "mode": "markers",
        "marker": {"symbol": "x-thin", "size": 7, "line": {"color": colour, "width": 2}},
        "legendgroup": str(w.width),
        "showlegend": False,
    }


def _hover(w: WidthFit, place: int) -> str:
    """Learning rate, loss and seeds of one point of the curve."""
    curve, n = w.curve, int(w.curve.n_seeds[place])
    seeds = f"{n} seed{'s' * (n > 1)}"
    if curve.n_lost[place]:
        outcome = f"unstable in {curve.n_lost[place]} of {seeds}"
    else:
        outcome = f"loss {curve.losses[place]:.3f}, {seeds}"
        if w.unstable[place]:
            accuracy = curve.accuracies[place]
            reason = (
                f"more than 1 above the best {w.optimum.loss:.3f}"
                if math.isnan(accuracy)
                else f"accuracy {accuracy:.0%}"
            )
            outcome += f"<br>unstable: {reason}"
    best = "<br>best of those tried" if place == w.optimum.index else ""
    return f"width {w.width}<br>lr {words.lr(float(curve.lrs[place]))}<br>{outcome}{best}"


def _lr_axis(group: GroupFit, title: str) -> dict[str, Any]:
    return _AXIS | {
        "type": "log",
        "title": {"text": title},
        **_lr_ticks(np.concatenate([w.curve.lrs for w in group.widths])),
    }


def _lr_ticks(lrs: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
    """Ticks such as 4e-3, far enough beyond the data for zooming out and for scaled axes: 1, 2, 5 or powers of ten alone."""
    lrs = lrs[np.isfinite(lrs)]
    if not len(lrs):
        return {}
    low, high = math.floor(math.log10(lrs.min())) - 3, math.ceil(math.log10(lrs.max())) + 3
    steps = (1, 2, 5) if lrs.max() / lrs.min() < 500 else (1,)
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    return {"tickvals": ticks, "ticktext": [words.lr(tick) for tick in ticks]}
