"""Draws groups of curves of one or several studies side by side, such as SP beside muP, cross-entropy beside MSE, data
sets or depths (paper, Fig. 5, 7, F.18): ``python analysis/compare.py runs/A runs/B --what loss|accuracy|best [--out
DIR]``."""

import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.analysis.page import figures
from pipeline.analysis.page.figures_compare import best_figure, compare_figure
from pipeline.analysis.page.words_published import asked, beside
from pipeline.analysis.study.load import load_study
from pipeline.cli.main import script
from pipeline.cli.studies import add_published, study_args, study_parser
from pipeline.errors import RequestError


def main(argv: Sequence[str] | None = None) -> int:
    parser = study_parser("compare", __doc__ or "")
    parser.prog = "compare.py"
    parser.add_argument(
        "--what",
        choices=("loss", "accuracy", "best"),
        default="loss",
        help="loss or accuracy against learning rate, optimum and edge of all; best: the best value against width, of "
        "accuracy where all runs have one (default: loss)",
    )
    parser.add_argument("--out", type=Path, help="folder for the figure (default: figures/ in the first study)")
    add_published(parser)
    try:
        parsed = parser.parse_args(argv)
        if parsed.metric is None and parsed.what != "loss" and (parsed.what == "accuracy" or _classes(parsed.study)):
            parsed.metric = "train_accuracy"
        fitted = study_args(parsed).fit()
        if parsed.what == "accuracy" and not fitted.measure.is_accuracy:
            raise RequestError(f"--what accuracy: --metric {parsed.metric} is a loss")
        found = asked(fitted, parsed.published)
        figure = best_figure(fitted) if parsed.what == "best" else compare_figure(fitted)
        paths = figures.save(figure, parsed.out or fitted.study.folder / "figures", f"compare-{parsed.what}")
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    print(*beside(fitted, found), "", *paths, sep="\n")
    return 0


def _classes(sources: list[str]) -> bool:
    """Whether the sources are study folders whose runs all know their accuracy."""
    folders = [Path(source) for source in sources]
    if not all(folder.is_dir() for folder in folders):
        return False
    runs = load_study(folders).runs
    return bool(runs["final_train_accuracy"][runs["status"] == "completed"].notna().all())


if __name__ == "__main__":
    sys.exit(script(main))
