"""Draws the coordinate check (paper, Fig. 4 and E.16) of a study: ``python analysis/coordinate_check.py runs/STUDY
[--lr LR] [--out DIR]``."""

import math
import sys
from pathlib import Path

from pipeline.analysis.inside.lr_rules import ladders, recorded
from pipeline.analysis.page import figures, figures_inside
from pipeline.analysis.page.inside import telling
from pipeline.analysis.study.load import load_study
from pipeline.cli.arguments import RequestParser
from pipeline.errors import RequestError


def main() -> int:
    parser = RequestParser(prog="coordinate_check.py", description=__doc__)
    parser.add_argument("study", nargs="+", type=Path, metavar="STUDY", help="study folder, such as runs/coordcheck")
    parser.add_argument("--lr", type=float, help="learning rate at the base width (default: the largest stable one)")
    parser.add_argument("--out", type=Path, help="folder for the figures (default: figures/ in the first study)")
    try:
        args = parser.parse_args()
        study = load_study(args.study)
        found = [f for f in ladders(study, recorded(study)) if f.by_group]
        chosen = telling(found) if args.lr is None else [f for f in found if math.isclose(f.lr, args.lr, rel_tol=1e-3)]
        if not chosen:
            raise RequestError(f"{study.name}: no coordinates{'' if args.lr is None else f' at lr {args.lr:g}'}")
        for ladder in chosen:
            figure = figures_inside.coordinate_figure(ladder)
            name = figures_inside.name_of(ladder)
            print(*figures.save(figure, args.out or study.dirs[0] / "figures", name), sep="\n")
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
