"""Draws the LR-transfer figure (paper, Fig. 5) from any study, published exponents beside the measured ones:
``python analysis/lr_transfer.py runs/STUDY [--published auto|off|"Fig 5"] [--out DIR]``."""

import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.analysis.page import figures
from pipeline.analysis.page.words_published import asked, beside
from pipeline.cli.main import script
from pipeline.cli.studies import add_published, study_args, study_parser
from pipeline.errors import RequestError


def main(argv: Sequence[str] | None = None) -> int:
    parser = study_parser("lr_transfer", __doc__ or "")
    parser.prog = "lr_transfer.py"
    parser.add_argument("--out", type=Path, help="folder for the figure (default: figures/ in the first study)")
    add_published(parser)
    try:
        parsed = parser.parse_args(argv)
        args = study_args(parsed)
        fit = args.fit()
        found = asked(fit, parsed.published)
        figure = figures.lr_curves(fit, found)
        paths = figures.save(figure, parsed.out or args.dirs[0] / "figures", "lr_transfer")
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    print(*beside(fit, found), "", *paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(script(main))
