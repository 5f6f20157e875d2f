"""`pipeline report`: one self-contained HTML page with the study's answer, interactive charts and tables, and the
figures."""

from collections.abc import Sequence

from pipeline.analysis.page import figures, figures_compare, inside
from pipeline.analysis.page.report import render
from pipeline.analysis.page.summary import summary
from pipeline.analysis.page.tables import write, write_text
from pipeline.cli.studies import add_out, add_strict, folder_of, strict_code, study_args, study_parser


def main(argv: Sequence[str]) -> int:
    """`pipeline report STUDY... [--metric ...] [--value ...] [--estimator ...]`, and tables as `pipeline fit` takes
    them. Files go into the first study's folder, or beside the first table."""
    parser = study_parser("report", "One HTML page and the figures of a study.")
    add_out(parser)
    add_strict(parser)
    parsed = parser.parse_args(argv)
    fitted = study_args(parsed).fit()
    folder = folder_of(fitted, parsed.out)
    looked = inside.section(fitted)
    page = write_text(folder / "report.html", render(fitted, looked))
    drawn = {"lr_transfer": figures.lr_curves(fitted)} | looked.figures
    if len(fitted.groups) > 1:
        drawn["comparison"] = figures_compare.compare_figure(fitted)
    saved = [path for name, figure in drawn.items() for path in figures.save(figure, folder / "figures", name)]
    print(summary(fitted), "", page, *write(fitted, folder), *saved, sep="\n")
    return strict_code(parsed.strict, fitted.study)
