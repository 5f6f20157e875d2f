"""Draws the LR-transfer figure (paper, Fig. 5) from any study: ``python analysis/lr_transfer.py runs/STUDY [--out
DIR]``."""

import sys
from pathlib import Path

from pipeline.analysis.page import figures
from pipeline.cli.studies import study_args, study_parser
from pipeline.errors import RequestError


def main() -> int:
    parser = study_parser("lr_transfer", __doc__ or "")
    parser.prog = "lr_transfer.py"
    parser.add_argument("--out", type=Path, help="folder for the figure (default: figures/ in the first study)")
    try:
        parsed = parser.parse_args()
        args = study_args(parsed)
        figure = figures.lr_curves(args.fit())
        paths = figures.save(figure, parsed.out or args.dirs[0] / "figures", "lr_transfer")
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    print(*paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
