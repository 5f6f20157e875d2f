"""Draws the LR-transfer figure (paper, Fig. 5) from any study: ``python analysis/lr_transfer.py runs/STUDY [--out DIR]``."""

import argparse
import sys
from pathlib import Path

from pipeline.analysis import figures
from pipeline.analysis.fit import fit
from pipeline.config import RequestError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", nargs="+", type=Path, help="study folder, such as runs/quick")
    parser.add_argument("--metric", choices=["train", "val"], default="train", help="final loss to compare")
    parser.add_argument("--out", type=Path, help="folder for the figure (default: figures/ in the first study)")
    args = parser.parse_args()
    try:
        figure = figures.lr_curves(fit(args.study, args.metric))
        paths = figures.save(figure, args.out or args.study[0] / "figures", "lr_transfer")
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    print(*paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
