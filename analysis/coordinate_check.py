"""Draws the coordinate check (paper, Fig. 4 and E.16) of a study, and prints its exponents beside predicted and
published ones: ``python analysis/coordinate_check.py runs/STUDY [--lr LR] [--published "Figure 4"] [--out DIR]``."""

import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.analysis.inside.lr_rules import ladders, recorded
from pipeline.analysis.page import figures, figures_inside, words, words_inside
from pipeline.analysis.page.inside import telling
from pipeline.analysis.page.words_checks import checked
from pipeline.analysis.study.load import load_study
from pipeline.cli.arguments import RequestParser
from pipeline.cli.main import script
from pipeline.errors import RequestError


def main(argv: Sequence[str] | None = None) -> int:
    parser = RequestParser(prog="coordinate_check.py", description=__doc__)
    add = parser.add_argument
    add("study", nargs="+", type=Path, metavar="STUDY", help="study folder, such as runs/coordcheck")
    add("--lr", type=float, help="learning rate at the base width (default: the largest stable one)")
    add("--out", type=Path, help="folder for the figures (default: figures/ in the first study)")
    add("--published", default="", metavar="ITEM", help='print what this figure was published with, such as "Figure 4"')
    try:
        args = parser.parse_args(argv)
        study = load_study(args.study)
        found = [f for f in ladders(study, recorded(study)) if f.compares]
        chosen = telling(found, args.lr)
        if not chosen:
            raise RequestError(f"{study.name}: no coordinates{'' if args.lr is None else f' at lr {args.lr:g}'}")
        for ladder in chosen:
            figure = figures_inside.coordinate_figure(ladder)
            name = figures_inside.name_of(ladder)
            lines = checked(ladder, ("effective", "propagating", "output"), args.published)
            print(words.plain(words_inside.title(ladder)), *lines, "", sep="\n")
            print(*figures.save(figure, args.out or study.dirs[0] / "figures", name), sep="\n")
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(script(main))
