"""`pipeline theory`: what a parameterization predicts, as a table on the terminal."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from fractions import Fraction
from typing import get_args

from pipeline.cli.arguments import RequestParser
from pipeline.console import table
from pipeline.entries.losses import LOSSES
from pipeline.entries.optimizers import MUON_SCALES, OPTIMIZERS
from pipeline.errors import RequestError
from pipeline.parameterization import rules
from pipeline.parameterization.depth import DEPTH_RULES
from pipeline.parameterization.rules import EmbeddingInit
from pipeline.theory.depth import depth_rows
from pipeline.theory.network import ARCHITECTURES, Setting, Trained
from pipeline.theory.text import all_json, all_text, as_json, theory_text


def _fraction(text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is no number or fraction such as 1/2") from None


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = RequestParser(
        prog="pipeline theory",
        description="Predicted width exponents of a parameterization x optimizer x loss.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--param", help=f"parameterization: {', '.join(rules.TABLE)}")
    add("--all", action="store_true", help="every parameterization: the rules and the predicted exponents")
    add("--optimizer", choices=sorted(OPTIMIZERS, reverse=True), default="adamw", help="default: adamw")
    add("--loss", choices=list(LOSSES), default="cross_entropy", help="default: cross_entropy")
    add("--alpha", type=_fraction, help="lr = eta * n^-alpha, such as 1/2 (default: the predicted largest stable rate)")
    add("--model", choices=list(ARCHITECTURES), default="gpt", help="default: gpt")
    add("--depth", type=int, default=8, help="weight matrices in a row; 2: no hidden layer (default: 8)")
    add("--activation", choices=["relu", "linear"], default="relu", help="of the mlp (default: relu)")
    add(
        "--d_out", choices=["finite", "large"], help="n >> d_out or d_out >> n (default: large for gpt, finite for mlp)"
    )
    add("--embedding_init", choices=get_args(EmbeddingInit), help="default: neox for gpt, constant for mlp")
    add("--readout_init", choices=["standard", "zero"], default="standard", help="default: standard")
    add("--train", choices=get_args(Trained), default="all", help="readout: of random features (default: all)")
    add("--norms", action="store_true", help="of the mlp: a norm between each layer and its activation")
    add("--biases", action="store_true", help="of the mlp: trainable biases")
    add("--residual", action="store_true", help="of the mlp: hidden layers add to their input")
    add("--logit_norm", action="store_true", help="of the mlp: LayerNorm on the logits")
    add("--tied", action="store_true", help="of the gpt: embedding and readout are one tensor")
    add("--fixed_norms", dest="train_norms", action="store_false", help="norm gains and biases stay at initialization")
    add("--no_qk_norm", dest="qk_norm", action="store_false", help="no normalization of queries and keys")
    add("--qk_norm_role", choices=["finite", "vector"], default="finite", help="learning rate of qk-norms as of norms")
    add("--kv_heads", choices=["all", "fixed"], default="all", help="fixed: their number does not grow with n")
    add("--muon_scale", choices=list(MUON_SCALES), help="size of Muon's updates by shape (default: spectral)")
    add("--depth_scaling", choices=["none", *DEPTH_RULES], help="also exponents of depth, of residual branches")
    add("--clipping", action="store_true", help="the gradient's norm is clipped in every step")
    add("--json", action="store_true", help="print JSON instead of words")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """`pipeline theory --param NAME [...]` or `pipeline theory --all`. Raises `RequestError` for a wrong request."""
    flags = _parse(argv)
    if flags.all == bool(flags.param):
        raise RequestError("pipeline theory: give either --param NAME or --all (see pipeline theory --help)")
    for name in ("alpha", "depth_scaling"):
        if flags.all and getattr(flags, name) is not None:
            raise RequestError(f"pipeline theory: --{name} goes with --param, not with --all")
    if flags.muon_scale and not flags.all and not OPTIMIZERS[flags.optimizer].matrices:
        raise RequestError(f"pipeline theory: --muon_scale is Muon's, not of --optimizer {flags.optimizer}")
    flags.muon_scale = flags.muon_scale or next(iter(MUON_SCALES))
    given = {f.name: getattr(flags, f.name) for f in dataclasses.fields(Setting) if hasattr(flags, f.name)}
    try:
        chosen = rules.get(flags.param) if flags.param else next(iter(rules.TABLE.values()))
        setting = Setting(chosen, **given)
        deep = depth_rows(setting.optimizer, flags.depth_scaling) if flags.depth_scaling else []
        if flags.json and flags.all:
            print(json.dumps(all_json(setting), indent=2))
        elif flags.json:
            depth = {"depth": {what: {"exponent": e, "status": s.strip("[]")} for what, e, s in deep}} if deep else {}
            print(json.dumps(as_json(setting, flags.alpha) | depth, indent=2))
        else:
            print(all_text(setting) if flags.all else theory_text(setting, flags.alpha))
            if deep:
                head = f"with the number L of residual blocks, under --depth_scaling {flags.depth_scaling}:"
                print("\n".join(["", head, *table(deep)]))
    except ValueError as error:
        raise RequestError(str(error)) from None
    return 0
