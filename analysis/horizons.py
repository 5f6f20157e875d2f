"""How exponents move with the length of training: ``python -m analysis.horizons runs/A runs/B ... --steps 60,120,240
--out DIR``.

Where the learning rate is constant after warm-up, a run holds every shorter one: its validation loss after step T is
what a run of T steps ends with. So one study has an optimum per width, and an exponent, at every T at which it was
validated. Runs whose learning rate decays count at their own length alone. Writes NAME.csv (exponents and optima with
95 % intervals by schedule and T), NAME-runs.csv (a row per run and T, which ``pipeline fit`` takes with ``--group
param,optimizer,schedule,steps``) and the figure NAME.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

import pipeline
from analysis.measured import csv_text
from pipeline.analysis.fit.study_fit import GroupFit, StudyFit
from pipeline.analysis.page import figures, words
from pipeline.analysis.page.tables import make_folder, write_text
from pipeline.analysis.study.load import load_study
from pipeline.cli.arguments import RequestParser, user_path
from pipeline.cli.main import script
from pipeline.config import RunConfig
from pipeline.console import table
from pipeline.errors import RequestError, require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUP = "param,optimizer,schedule,steps"
HEAD = ("param", "optimizer", "schedule", "steps", "quantity", "width", "tokens_per_parameter", "runs", "value",
        "ci_low", "ci_high")  # fmt: skip
MARKS = "os^Dv"


def main(argv: Sequence[str] | None = None) -> int:
    parser = RequestParser(prog="horizons.py", description=__doc__)
    add = parser.add_argument
    add("study", nargs="+", type=user_path, metavar="STUDY", help="study folders")
    add("--steps", required=True, metavar="T,T,...", help="lengths, at which runs were validated")
    add("--out", type=Path, required=True, metavar="DIR", help="where the results go")
    add("--name", default="horizons", help="what they are called (default: %(default)s)")
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        args = parser.parse_args(given)
        make_folder(args.out)
        runs = pd.DataFrame(row for source in args.study for row in shortened(Path(source), lengths(args.steps)))
        fit = pipeline.fit(runs.drop(columns=["tokens_per_parameter"]), group=GROUP)
        assert isinstance(fit, StudyFit)  # along width alone
        found = [row for group in fit.groups for row in _rows(group, runs)]
        command = ["python", "-m", "analysis.horizons", *given]
        paths = [
            write_text(args.out / f"{args.name}.csv", csv_text(HEAD, found, command, "by validation loss; ")),
            write_text(args.out / f"{args.name}-runs.csv", runs.to_csv(index=False, float_format="%.6g")),
            *figures.save(drawn(fit), args.out, args.name),
        ]
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    shown = [HEAD, *(row for row in found if row[4] == "exponent")]
    print(*table([[str(cell) for cell in row] for row in shown]), "", *paths, sep="\n")
    return 0


def lengths(text: str) -> list[int]:
    """Raises `RequestError`."""
    parts = [part.strip() for part in text.split(",")]
    require(all(part.isdecimal() and int(part) > 0 for part in parts), f"--steps {text}: expected steps such as 60,120")
    return sorted({int(part) for part in parts})


def shortened(folder: Path, steps: Sequence[int]) -> Iterator[dict[str, Any]]:
    """A row per run of the study folder and length, of which the loss is the validation loss after so many steps;
    nan: lost by then. Raises `RequestError` for a length at which a run was not validated."""
    study = load_study([folder])
    for _, run in study.runs.iterrows():
        directory = study.directory(run["run"])
        config, tokens = directory.config(), run["tokens"] / max(run["steps"], 1)
        validated = {record.step: record.number("val_loss") for record in directory.records() if "val_loss" in record}
        for length in steps if is_constant(config) else [config.steps]:
            require(length <= config.steps, f"{directory.path} has {config.steps} steps: leave out --steps {length}")
            require(length > config.warmup_steps, f"{directory.path} is warming up until step {config.warmup_steps}")
            lost = run["status"] != "completed" and run["steps"] <= length
            require(lost or length in validated, f"{directory.path} was not validated after step {length}: choose from "
                    f"{', '.join(map(str, validated))}")  # fmt: skip
            yield {
                "param": run["param"],
                "optimizer": run["optimizer"],
                "schedule": config.schedule,
                "steps": length,
                "width": run["width"],
                "lr": run["lr"],
                "seed": run["seed"],
                "loss": math.nan if lost else validated[length],
                "diverged": lost or not math.isfinite(validated[length]),
                "tokens_per_parameter": length * tokens / run["parameters"],
            }


def is_constant(config: RunConfig) -> bool:
    """Whether nothing after warm-up depends on how long the run is going to be."""
    flat = config.schedule == "constant" or (config.schedule in ("cosine", "linear") and config.lr_min_ratio == 1)
    return flat and config.steps_scaling == "none" and config.weight_decay_scaling != "timescale"


def _rows(group: GroupFit, runs: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """Of the exponent, and of every width's optimum."""
    key = {name: group.head[name] for name in GROUP.split(",")}
    own = runs[
        (runs["schedule"] == key["schedule"]) & (runs["steps"] == int(key["steps"])) & (runs["param"] == key["param"])
    ]
    law, counts = group.optimal, group.grid.runs
    yield *key.values(), "exponent", "", "", len(counts), *map(_number, (law.exponent, law.ci_low, law.ci_high))
    for w in group.widths:
        if w.best is not None:
            per = f"{own.loc[own['width'] == w.width, 'tokens_per_parameter'].iloc[0]:.3g}"
            ends = map(_number, (w.best.value, w.best.low, w.best.high))
            yield *key.values(), "optimal_lr", w.width, per, int((counts.width == w.width).sum()), *ends


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"


def drawn(fit: StudyFit) -> "Figure":
    """Optimum against width, a colour per length; and exponent against length, a mark per family and schedule."""
    import matplotlib as mpl
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    families = list(dict.fromkeys(_family(group) for group in fit.groups))
    every = sorted({int(group.head["steps"]) for group in fit.groups})
    with mpl.rc_context(figures.STYLE):
        figure = Figure(figsize=(8.5, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for group in fit.groups:
            steps, mark = int(group.head["steps"]), MARKS[families.index(_family(group)) % len(MARKS)]
            colour = colormaps["viridis"](0.9 * every.index(steps) / max(len(every) - 1, 1))
            best = [(w.width, w.best) for w in group.widths if w.best is not None]
            values = [lr.value for _, lr in best]
            spread = [[lr.value - lr.low for _, lr in best], [lr.high - lr.value for _, lr in best]]
            style = {"color": colour, "marker": mark, "ms": 4, "lw": 1.2, "capsize": 2}
            left.errorbar([width for width, _ in best], values, spread, label=f"{steps} steps", **style)
            law = group.optimal
            if law.estimable:
                error = [[law.exponent - law.ci_low], [law.ci_high - law.exponent]]
                right.errorbar([steps], [law.exponent], error, **style)
        left.set(xscale="log", yscale="log", xlabel="width $n$", ylabel="optimal learning rate")
        widths = sorted({w.width for group in fit.groups for w in group.widths})
        left.set_xticks(widths, list(map(words.level, widths)))
        left.minorticks_off()
        handles, labels = left.get_legend_handles_labels()
        first = [labels.index(label) for label in dict.fromkeys(labels)]
        left.legend([handles[i] for i in first], [labels[i] for i in first], frameon=False)
        for place, family in enumerate(families if len(families) > 1 else ()):
            right.plot([], [], MARKS[place % len(MARKS)], color="#666666", ms=4, label=family)
        for slope in (-1.0, -0.5):
            right.axhline(slope, color="#333333", lw=1, ls=(0, (4, 2)), zorder=0)
        right.set(xscale="log", xlabel="training steps", ylabel="exponent of the optimum (bars: 95 %)")
        right.set_xticks(every, list(map(str, every)))
        right.minorticks_off()
        if len(families) > 1:
            right.legend(frameon=False)
    return figure


def _family(group: GroupFit) -> str:
    return f"{words.label(group.head['param'])}, {group.head['schedule']}"


if __name__ == "__main__":
    sys.exit(script(main))
