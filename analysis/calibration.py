"""Are wide models calibrated, each at its own best learning rate? ``python -m analysis.calibration runs/STUDY --metric
val --out DIR``.

Of every width's runs at the best learning rate tried: expected calibration error (15 bins; Guo et al. 2017), how far
the mean largest probability lies above the accuracy, and the loss above the entropy of the predictions (positive: too
sure), accuracy and cross-entropy, on the validation split, which runs record with ``--diagnostics.interval``; and the
root mean square of the last training batch's logits. Means over seeds with Student-t 95 % intervals. Writes NAME.csv
and the figure NAME.
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import stdtrit

from analysis.base_width import COLOURS
from analysis.measured import csv_text
from pipeline.analysis.fit.study_fit import GroupFit
from pipeline.analysis.page import figures, words
from pipeline.analysis.page.tables import make_folder, write_text
from pipeline.analysis.study.load import Study
from pipeline.cli.main import script
from pipeline.cli.studies import study_args, study_parser
from pipeline.console import table
from pipeline.errors import RequestError, require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAD = ("group", "width", "lr", "seeds", "quantity", "value", "ci_low", "ci_high")
QUANTITIES = ("calibration_error", "too_sure", "loss_above_entropy", "accuracy", "loss", "logit_rms")
SHOWN = {"calibration_error": "expected calibration error", "too_sure": "mean largest probability - accuracy",
         "loss_above_entropy": "loss - entropy, nats"}  # fmt: skip


class Row(NamedTuple):
    """Of the runs of a width at its best learning rate."""

    group: str
    width: int
    lr: float
    seeds: int
    quantity: str
    value: float
    ci_low: float
    ci_high: float


def main(argv: Sequence[str] | None = None) -> int:
    parser = study_parser("calibration", __doc__ or "")
    parser.prog = "calibration.py"
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the results go")
    parser.add_argument("--name", default="calibration", help="what they are called (default: %(default)s)")
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        parsed = parser.parse_args(given)
        args = study_args(parsed)
        require(bool(args.dirs), "name a study folder")
        make_folder(parsed.out)
        fit = args.fit()
        assert isinstance(fit.study, Study)  # of folders
        rows = [row for group in fit.groups for row in of_group(fit.study, group)]
        cells = [tuple(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row) for row in rows]
        text = csv_text(HEAD, cells, ["python", "-m", "analysis.calibration", *given], f"by {args.measure.name}; ")
        paths = [
            write_text(parsed.out / f"{parsed.name}.csv", text),
            *figures.save(drawn(rows), parsed.out, parsed.name),
        ]
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    print(*table([HEAD, *cells]), "", *paths, sep="\n")
    return 0


def of_group(study: Study, group: GroupFit) -> Iterator[Row]:
    """Raises `RequestError` for a run that did not record it."""
    of_key = (study.runs[list(group.key)] == list(group.key.values())).all(axis=1)
    for w in group.grid.widths:
        if w.optimum.index is None:
            continue
        here = study.runs[of_key & (study.runs["width"] == w.width) & (study.runs["lr"] == w.optimum.lr)]
        found = [_of_run(study, str(run)) for run in here["run"]]
        for quantity in QUANTITIES:
            values = np.array([one[quantity] for one in found])
            half = math.nan
            if len(values) > 1:
                half = float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / math.sqrt(len(values)))
            mean, name = float(values.mean()), words.plain(words.group_title(group))
            yield Row(name, int(w.width), w.optimum.lr, len(values), quantity, mean, mean - half, mean + half)


def _of_run(study: Study, run: str) -> Mapping[str, float]:
    """Of its last validation."""
    directory = study.directory(run)
    record = next((one for one in reversed(directory.records()) if "val_calibration_error" in one), None)
    require(record is not None, f"{directory.path} recorded no calibration: train with --diagnostics.interval 1000000")
    assert record is not None
    names = ("calibration_error", "max_probability", "entropy", "accuracy", "loss")
    found = {name: record.number(f"val_{name}") for name in names}
    return found | {
        "too_sure": found["max_probability"] - found["accuracy"],
        "loss_above_entropy": found["loss"] - found["entropy"],
        "logit_rms": record.number("logit_rms"),
    }


def drawn(rows: Sequence[Row]) -> "Figure":
    """A panel per quantity of `SHOWN`, a line per group."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys(row.group for row in rows))
    widths = sorted({row.width for row in rows})
    with mpl.rc_context(figures.STYLE):
        figure = Figure(figsize=(10.5, 3.2), layout="constrained")
        for axes, (quantity, label) in zip(figure.subplots(1, len(SHOWN)), SHOWN.items(), strict=True):
            for place, group in enumerate(groups):
                own = [row for row in rows if row.group == group and row.quantity == quantity]
                x = [row.width * 1.04 ** (place - (len(groups) - 1) / 2) for row in own]
                half = [row.ci_high - row.value for row in own]
                axes.errorbar(x, [row.value for row in own], half, color=COLOURS[place % len(COLOURS)],
                              marker="osD^"[place % 4], ms=4, lw=1.2, capsize=2, label=group)  # fmt: skip
            axes.set(xscale="log", xlabel="width $n$", ylabel=label)
            axes.set_xticks(widths, list(map(words.level, widths)))
            axes.minorticks_off()
        figure.axes[0].legend(frameon=False)
    return figure


if __name__ == "__main__":
    sys.exit(script(main))
