"""Draws the LR-transfer figure (paper, Fig. 5) from any study, published exponents beside the measured ones:
``python analysis/lr_transfer.py runs/STUDY [--published auto|off|"Fig 5"] [--out DIR]``."""

import sys
from pathlib import Path

from pipeline.analysis.page import figures
from pipeline.analysis.page.words_published import beside, published
from pipeline.analysis.published import item_of
from pipeline.cli.studies import study_args, study_parser
from pipeline.errors import RequestError


def main() -> int:
    parser = study_parser("lr_transfer", __doc__ or "")
    parser.prog = "lr_transfer.py"
    parser.add_argument("--out", type=Path, help="folder for the figure (default: figures/ in the first study)")
    parser.add_argument(
        "--published",
        default="auto",
        metavar="ITEM",
        help="published exponents to draw and print: auto, those of the study's own parameterization, optimizer, loss, "
        'model and data (default); off; or those of a figure or table of the paper, such as "Fig 5" or "Table F.1"',
    )
    try:
        parsed = parser.parse_args()
        args = study_args(parsed)
        fit = args.fit()
        item = None if parsed.published in ("auto", "off") else item_of(parsed.published)
        found = None if parsed.published == "off" else published(fit, item)
        figure = figures.lr_curves(fit, found)
        paths = figures.save(figure, parsed.out or args.dirs[0] / "figures", "lr_transfer")
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    if found is not None:
        lines = beside(fit, found)
        print(*lines or ["Nothing was published for this setting and these data."], "", sep="\n")
    print(*paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
