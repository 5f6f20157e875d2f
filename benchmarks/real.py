"""Do the intervals hold on real training?

    python -m benchmarks.real train --out DIR --phase fit       two seeds at four widths: what the estimator sees
    python -m benchmarks.real train --out DIR --phase seeds     other seeds near the optima: the truth at those widths
    python -m benchmarks.real train --out DIR --phase target    other seeds at four times the widest width
    python -m benchmarks.real score --out DIR [--each]

    python -m benchmarks.real record --out DIR              after fit: the target's prediction, before its first run
    python -m benchmarks.real recorded --out DIR            after target: how the recorded predictions came out

Each recipe is two studies, one under sp and one under mup, trained by the project's sweep into DIR/PHASE/RECIPE. The
learning rates of `seeds` and `target` are laid around what earlier runs found best, and moved where half of the seeds
are best at an end of theirs.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.scoring import Score, recorded, report, score
from benchmarks.truth import measured, truth
from pipeline.analysis.fit import ledger, scores
from pipeline.analysis.study.load import load_study
from pipeline.cli import predict
from pipeline.cli.arguments import parse
from pipeline.config import RunConfig
from pipeline.errors import require
from pipeline.sweep.grid import cost, grid, unfinished
from pipeline.sweep.launch import local

PHASES = ("fit", "seeds", "target")
PARAMS = ("sp", "mup")
SEEDS = {"fit": (0, 1), "seeds": tuple(range(2, 10)), "target": tuple(range(10, 18))}
NEAR = {"seeds": (-2.0, -1.0, 0.0, 1.0), "target": (-1.0, -0.5, 0.0, 0.5, 1.0)}
"""Octaves around the best that all seeds train at."""
SCAN = range(-3, 3)
"""Octaves around the widest fitted width's best that one seed trains at the target."""
MOVES = 3

Family = tuple[str, int]
"""Parameterization and width."""


@dataclass(frozen=True)
class Recipe:
    """Two studies, one under sp and one under mup. Where the base width is one of `widths`, their runs there are the
    same."""

    name: str
    flags: str
    """Of `pipeline sweep`."""
    octaves: tuple[int, int]
    """log2 of the smallest and the largest learning rate of the grid."""
    widths: tuple[int, ...]
    target: int
    """Four times the widest of `widths`."""
    step: int = 1
    """Octaves between its learning rates."""


_INDEX = "--config mlp-multi-index --steps 160 --val_interval 160 --val_sequences 256"
_DIGITS = "--config mlp-digits --base_width 48"
_GPT = (
    "--config quick --base_width 24 --model.vocab_size 512 --model.head_size 8 --seq_len 32 --val_sequences 32"
    " --val_interval 80"
)
_SHORT = " --global_batch 8 --steps 80 --warmup_steps 8"
_MOMENTUM = f"{_INDEX} --base_width 48 --model.n_layer 2"
_DECAY = "--optimizer adamw --weight_decay 0.1"
_FASHION = "--config mlp-fashion-mnist --base_width 48 --epochs null --steps 150 --val_sequences 1000 --log_interval 1"
_ONCE = "--config mlp-multi-index-published --base_width 64"
_NOISY = f"{_DIGITS} --data.label_noise 0.25"
_RESIDUAL = f"{_DIGITS} --model.n_layer 4 --model.residual true --model.norm rmsnorm"
_COSINE = f"{_DIGITS} --model.n_layer 3 --warmup_steps 12 --schedule cosine --lr_min_ratio 0.1 {_DECAY}"
_WIDE, _NARROW, _GPT_WIDTHS = ((32, 64, 128, 256), 1024), ((16, 32, 64, 128), 512), ((8, 16, 32, 64), 256)
_THREE = (32, 64, 128), 512

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("index-sgd", f"{_INDEX} --base_width 64 --optimizer sgd", (-2, 6), *_WIDE),
        Recipe("index-adam", f"{_INDEX} --base_width 64 --optimizer adam", (-11, -2), *_WIDE),
        Recipe("digits-sgd", f"{_DIGITS} --model.n_layer 4 --optimizer sgd", (-6, 1), *_NARROW),
        Recipe("digits-adamw", f"{_DIGITS} --model.n_layer 4 {_DECAY}", (-11, -3), *_NARROW),
        Recipe("gpt-adamw", f"{_GPT}{_SHORT}", (-8, 1), *_GPT_WIDTHS),
        Recipe("digits-adam", f"{_DIGITS} --model.n_layer 3 --global_batch 32 --optimizer adam", (-11, -3), *_NARROW),
        Recipe("index-adamw-deep", f"{_INDEX} --base_width 48 --model.n_layer 5 {_DECAY}", (-11, -3), *_NARROW),
        Recipe("digits-mse", f"{_DIGITS} --model.n_layer 4 --loss mse --optimizer sgd", (-10, -2), *_NARROW),
        Recipe("digits-sgd-deep", f"{_DIGITS} --model.n_layer 8 --optimizer sgd", (-7, 1), *_NARROW),
        Recipe(
            "gpt-adam", f"{_GPT} --global_batch 16 --steps 40 --warmup_steps 4 --optimizer adam", (-9, 0), *_GPT_WIDTHS
        ),
        Recipe(
            "digits-adam-x4", f"{_DIGITS} --model.n_layer 5 --global_batch 16 --optimizer adam", (-13, -3), *_NARROW, 2
        ),
        Recipe("index-momentum", f"{_MOMENTUM} --global_batch 32 --optimizer sgd --momentum 0.9", (-5, 3), *_NARROW),
        # of these the scales of the law have seen nothing
        Recipe("fashion-sgd", f"{_FASHION} --model.n_layer 6", (-7, 2), *_NARROW),
        Recipe("fashion-adam", f"{_FASHION} --model.n_layer 4 --optimizer adam", (-12, -3), *_NARROW),
        Recipe("index-once", f"{_ONCE} --model.n_layer 4", (-4, 5), *_WIDE),
        Recipe("digits-norms", f"{_DIGITS} --model.n_layer 5 --model.norm rmsnorm {_DECAY}", (-11, -1), *_NARROW),
        Recipe(
            "gpt-fixed-norms",
            f"{_GPT} --model.train_norms false{_SHORT}",
            (-9, 1),
            *_GPT_WIDTHS,
        ),
        Recipe("gpt-sgd", f"{_GPT} --optimizer sgd{_SHORT}", (-4, 6), *_GPT_WIDTHS),
        # kinds of networks, losses and data that none of those above has
        Recipe("noisy-sgd", f"{_NOISY} --model.n_layer 4", (-7, 2), *_THREE),
        Recipe("noisy-adam", f"{_NOISY} --model.n_layer 3 --optimizer adam", (-12, -3), *_THREE),
        Recipe("linear-sgd", f"{_DIGITS} --model.n_layer 3 --model.activation linear", (-8, 1), *_THREE),
        Recipe("residual-adam", f"{_RESIDUAL} --optimizer adam", (-11, -2), *_THREE),
        Recipe("digits-momentum", f"{_DIGITS} --model.n_layer 3 --momentum 0.9", (-9, 0), *_THREE),
        Recipe("cosine-adamw", _COSINE, (-11, -2), *_THREE),
        Recipe("normed-mse", f"{_DIGITS} --model.n_layer 3 --loss mse --model.logit_norm layernorm", (-8, 2), *_THREE),
        Recipe("fixed-first", f"{_DIGITS} --model.n_layer 4 --model.train no_input", (-7, 2), *_THREE),
    )
}


@dataclass(frozen=True)
class Training:
    """A phase of a recipe."""

    recipe: Recipe
    out: Path
    phase: str

    @property
    def folder(self) -> Path:
        return self.out / self.phase / self.recipe.name

    def launch(self, octaves: Mapping[Family, list[float]], seeds: tuple[int, ...]) -> None:
        """Train at these learning rates. Raises `RuntimeError` if a run failed."""
        own = f"--study {self.recipe.name} --workers 1 --keep_checkpoint false --checkpoint_interval 100000"
        argv = [*self.recipe.flags.split(), *own.split(), "--wandb", "disabled", "--out", str(self.folder.parent)]
        sweep, _ = parse("sweep", argv)
        runs: list[RunConfig] = []
        for (param, width), xs in octaves.items():
            lrs = tuple(2.0**x for x in xs)
            runs += grid(replace(sweep, params=(param,), widths=(width,), lrs=lrs, seeds=seeds))
        todo = sorted(unfinished(runs), key=cost, reverse=True)
        print(f"{self.folder}: {len(runs)} runs, {len(todo)} to do", flush=True)
        failures = local.run_study(sweep, todo)
        if failures:
            raise RuntimeError(f"{self.folder}: {len(failures)} of {len(runs)} runs failed: {failures}")

    def around(self, centres: Mapping[Family, float]) -> None:
        """All seeds near the centres, which follow the best as far as it takes."""
        octaves = {family: [x + k for k in NEAR[self.phase]] for family, x in centres.items()}
        for _ in range(MOVES):
            self.launch(octaves, SEEDS[self.phase])
            found = {family: truth(seen.runs) for family, seen in measured(self.folder).items()}
            octaves = {
                family: [round(2 * known.x) / 2 + known.side * k for k in (1.0, 2.0)]
                for family, known in found.items()
                if known is not None and known.side
            }
            if not octaves:
                return


def train(recipe: Recipe, out: Path, phase: str) -> None:
    """A phase after those before it."""
    training = Training(recipe, out, phase)
    families = [(param, width) for param in PARAMS for width in recipe.widths]
    if phase == "fit":
        low, high = recipe.octaves
        return training.launch(
            {family: [float(x) for x in range(low, high + 1, recipe.step)] for family in families}, SEEDS["fit"]
        )
    centres = {family: seen.best for family, seen in measured(Training(recipe, out, "fit").folder).items()}
    if phase == "seeds":
        return training.around(centres)
    widest = {param: centres[param, recipe.widths[-1]] for param in PARAMS}
    training.launch({(param, recipe.target): [x + k for k in SCAN] for param, x in widest.items()}, SEEDS[phase][:1])
    return training.around({family: seen.best for family, seen in measured(training.folder).items()})


def record(recipe: Recipe, out: Path) -> None:
    """Adds the predictions for the target to the ledger of the fitted study. Raises `RequestError` where runs of the
    target are there."""
    target = Training(recipe, out, "target").folder
    require(not target.exists(), f"{target} is there: {recipe.name} cannot be predicted any more")
    folder = Training(recipe, out, "fit").folder
    require(not (folder / ledger.LEDGER).exists(), f"{recipe.name} is recorded: {folder / ledger.LEDGER}")
    predict.main([str(folder), "--width", str(recipe.target), "--record"])


def came_out(recipes: Mapping[str, Recipe], out: Path) -> Iterator[tuple[str, scores.Scored]]:
    """Of the recipes whose targets are trained."""
    for name, recipe in recipes.items():
        fitted, target = (Training(recipe, out, phase).folder for phase in ("fit", "target"))
        if (fitted / ledger.LEDGER).is_file() and target.is_dir():
            yield name, scores.score(load_study([fitted, target]), ledger.read(fitted / ledger.LEDGER))


def scored(recipes: Mapping[str, Recipe], out: Path) -> Iterator[Score]:
    for recipe in recipes.values():
        folders = [Training(recipe, out, phase).folder for phase in PHASES]
        if folders[0].is_dir():
            others = {k: v for folder in folders[1:] if folder.is_dir() for k, v in measured(folder).items()}
            yield from score(recipe.name, folders[0], others, recipe.target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("train", "score", "record", "recorded"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--phase", choices=PHASES, default="fit")
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--each", action="store_true", help="score: also a line per quantity")
    args = parser.parse_args()
    chosen = {name: RECIPES[name] for name in args.only}
    if args.verb == "score":
        report(list(scored(chosen, args.out)), args.each)
    elif args.verb == "recorded":
        print(*recorded(list(came_out(chosen, args.out))), sep="\n")
    else:
        for recipe in chosen.values():
            record(recipe, args.out) if args.verb == "record" else train(recipe, args.out, args.phase)


if __name__ == "__main__":
    main()
