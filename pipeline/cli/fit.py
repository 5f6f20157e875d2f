"""`pipeline fit`: optimum, stability edge and their width exponents of a study, on the terminal and as CSV and JSON."""

from collections.abc import Sequence

from pipeline.analysis.page.summary import summary
from pipeline.analysis.page.tables import write
from pipeline.cli.studies import study_args, study_parser


def main(argv: Sequence[str]) -> int:
    """`pipeline fit STUDY... [--metric ...] [--value ...] [--estimator ...]`. Files go into the first study's
    folder."""
    parser = study_parser("fit", "Optimal and max-stable learning rate per width, and their exponents.")
    fitted = study_args(parser.parse_args(argv)).fit()
    paths = write(fitted)
    print(summary(fitted))
    print(f"\nWritten to {paths[0].parent}: {', '.join(path.name for path in paths)}")
    return 0
