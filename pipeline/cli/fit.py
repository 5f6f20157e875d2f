"""`pipeline fit`: optimum, stability edge and their width exponents of a study or of a table of other people's runs, on
the terminal and as CSV and JSON."""

from collections.abc import Sequence

from pipeline.analysis.fit.surface import SurfaceFit
from pipeline.analysis.page import words_surface
from pipeline.analysis.page.summary import summary
from pipeline.analysis.page.tables import content, to_json, write
from pipeline.cli.studies import add_out, add_strict, folder_of, strict_code, study_args, study_parser


def main(argv: Sequence[str]) -> int:
    """`pipeline fit STUDY... [--metric ...] [--value ...] [--estimator ...]`, `pipeline fit TABLE... [--columns ...]
    [--axis ...] [--group ...]`. Files go into the first study's folder, or beside the first table."""
    parser = study_parser("fit", "Optimal and max-stable learning rate per width, and their exponents.")
    add_out(parser)
    add_strict(parser)
    parser.add_argument("--json", action="store_true", help="print what fit.json holds")
    parsed = parser.parse_args(argv)
    fitted = study_args(parsed).fit_axes()
    folder = folder_of(fitted, parsed.out)
    if isinstance(fitted, SurfaceFit):
        paths, found = words_surface.write(fitted, folder), words_surface.content(fitted)
        said = words_surface.summary(fitted)
    else:
        paths, found, said = write(fitted, folder), content(fitted), summary(fitted)
    if parsed.json:
        said = to_json(found).rstrip()
    print(said)
    if not parsed.json:
        print(f"\nWritten to {paths[0].parent}: {', '.join(path.name for path in paths)}")
    return strict_code(parsed.strict, fitted.study)
