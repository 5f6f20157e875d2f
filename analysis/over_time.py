"""Draws what runs recorded of their inside against training time, width or learning rate (paper, Fig. 2, E.6, E.7,
E.10, E.15, E.18): ``python analysis/over_time.py runs/STUDY --quantity alignment [--against step|width|lr] [--lr
LR]``."""

import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.analysis.inside.lr_rules import ladders, recorded
from pipeline.analysis.inside.over_time import AGAINST, ASKED, sheets
from pipeline.analysis.page import figures, words, words_inside
from pipeline.analysis.page.figures_over_time import over_time_figures
from pipeline.analysis.page.inside import telling
from pipeline.analysis.page.words_checks import checked
from pipeline.analysis.study.load import load_study
from pipeline.cli.arguments import RequestParser
from pipeline.cli.main import script
from pipeline.errors import RequestError


def main(argv: Sequence[str] | None = None) -> int:
    parser = RequestParser(prog="over_time.py", description=__doc__)
    add = parser.add_argument
    add("study", nargs="+", type=Path, metavar="STUDY", help="study folder, such as runs/coordcheck; several are one")
    add("--quantity", required=True, choices=tuple(ASKED), help="what is drawn")
    add("--against", default="step", choices=AGAINST, help="the horizontal axis (default: step)")
    add("--lr", type=float, help="learning rate at the base width (default: the largest stable one)")
    add("--out", type=Path, help="folder for the figures (default: figures/ in the first study)")
    add("--published", default="", metavar="ITEM", help='print what this figure was published with, such as "Figure 4"')
    try:
        args = parser.parse_args(argv)
        study = load_study(args.study)
        every = ladders(study, recorded(study))
        chosen = telling(every, args.lr)
        if not chosen:
            where = "" if args.lr is None else f" at lr {args.lr:g}"
            raise RequestError(f"{study.name}: nothing of the inside was recorded at two widths{where}")
        name = f"{args.quantity}-against-{args.against}"
        shown = sheets(chosen, every, args.quantity, args.against)
        for one in shown:
            lines = checked(one.ladder, one.asked.parts, args.published)
            print(words.plain(words_inside.title(one.ladder)), *lines, "", sep="\n")
        for end, figure in over_time_figures(shown).items():
            print(*figures.save(figure, args.out or study.folder / "figures", name + end), sep="\n")
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(script(main))
