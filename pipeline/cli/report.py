"""`pipeline report`: one self-contained HTML page with the study's answer, interactive charts and tables, and the
figures."""

from collections.abc import Sequence

from pipeline.analysis.page import figures, inside
from pipeline.analysis.page.report import render
from pipeline.analysis.page.summary import summary
from pipeline.analysis.page.tables import write, write_text
from pipeline.cli.studies import study_args, study_parser


def main(argv: Sequence[str]) -> int:
    """`pipeline report STUDY... [--metric ...] [--value ...] [--estimator ...]`. Files go into the first study's
    folder."""
    parser = study_parser("report", "One HTML page and the figures of a study.")
    fitted = study_args(parser.parse_args(argv)).fit()
    folder = fitted.study.dirs[0]
    looked = inside.section(fitted)
    page = write_text(folder / "report.html", render(fitted, looked))
    drawn = {"lr_transfer": figures.lr_curves(fitted)} | looked.figures
    saved = [path for name, figure in drawn.items() for path in figures.save(figure, folder / "figures", name)]
    print(summary(fitted), "", page, *write(fitted), *saved, sep="\n")
    return 0
