"""What a reader must know beyond predicted exponents."""

from collections.abc import Iterator
from fractions import Fraction

from pipeline.theory.edges import two_layer_linear
from pipeline.theory.network import Setting
from pipeline.theory.orders import Theta
from pipeline.theory.predict import Prediction, predict


def exponent_text(theta: Theta) -> str:
    return "-" if theta.exponent is None else signed(theta.exponent)


def signed(exponent: Fraction) -> str:
    return f"+{exponent}" if exponent > 0 else str(exponent)


def notes(prediction: Prediction) -> list[str]:
    """What a reader must know beyond the exponents: who stops learning, limits taken, and where published runs
    differ."""
    return [note for note, holds in _all_notes(prediction.setting, prediction) if holds]


def _all_notes(setting: Setting, prediction: Prediction) -> Iterator[tuple[str, bool]]:
    muon, norms, shallow = setting.orthogonalizes, setting.normalized, setting.depth == 2
    sgd, adam = (setting.family == family and not muon for family in ("sgd", "adam"))
    whole, readout = setting.train == "all", setting.train == "readout"
    stopped = "; ".join(setting.architecture.names.get(name, name) for name in prediction.stopped)
    yield (
        f"stops learning as n grows (vanishing effective updates): {stopped} [derived, Proposition 4, 5.1]",
        bool(stopped),
    )
    yield "no layer stops learning: no effective update vanishes [derived]", not stopped
    yield (
        "logits grow faster than the readout's own update, which no longer moves the softmax [derived, F.7]",
        prediction.outrun,
    )
    yield (
        "published runs with such logits: max-stable rate as predicted, optimum shrinks with width on images, less "
        "so on language [observed, 5.2, F.7]",
        not setting.global_lr and prediction.regime == "controlled divergence" and not prediction.stopped,
    )
    yield (
        "two-layer nets: the controlled range reaches to the readout's edge n^-1 (Remark 3; Remark C.14 says n^-1/2)",
        shallow and setting.derivative == "cross_entropy" and setting.global_lr and sgd and whole,
    )
    yield (
        "random features: only the readout moves, and larger rates than the optimal one make it memorize its examples; "
        "under cross-entropy they stay trainable [derived, C.1; observed, F.5.1]",
        readout,
    )
    yield (
        "a step lowers the loss under rates up to 2 / (n lambda) and, where f (f - y) >= 0, in a slim interval around "
        "n lambda / (chi f), which no constant rate keeps to: sharpness lambda and loss grow beyond n^-1 "
        "[derived, Proposition C.18, Remark C.19]",
        two_layer_linear(setting) and setting.global_lr,
    )
    yield (
        "normalized logits bound the loss's derivative under any loss: diverging logits do not feed back, though "
        "published losses then did not fall monotonically with width [observed, F.4, Figure F.17]",
        setting.logit_norm,
    )
    yield (
        "norms make updates insensitive to initial scales, under Adam hardly any is left [observed, E.3]",
        setting.norms,
    )
    yield (
        "embedding and readout are one tensor, whose gradient is the sum of both [conjectured]",
        setting.tied,
    )
    yield (
        "few hidden layers stabilize themselves at widths of practice: 3- and 4-layer MLPs kept constant rates "
        "[observed, F.5.4]",
        sgd and not norms and 3 <= setting.depth <= 4 and not readout,
    )
    yield (
        "the softmax saturates where logits diverge and training ends; published MLPs on multi-index data then count "
        "as unstable from n^-1 on [observed, F.4]",
        setting.saturates and not norms,
    )
    yield (
        "published GPTs with this loss and clipping: optimum about n^-1.05, max-stable rate about n^-0.50 [observed, "
        "Figure F.8, Table F.1]",
        setting.saturates and norms,
    )
    yield (
        "exponents of clipping in every step; clipping now and then moved no exponent in published GPT runs "
        "[observed, F.2]",
        sgd and setting.clipping,
    )
    yield "clipping does nothing under Adam, which normalizes anyway", adam and setting.clipping
    yield (
        "hidden matrices by Muon: derived for updates of equal singular values and of a rank that does not grow with "
        "n; five steps of Newton-Schulz leave values of .15 to 1.2 [observed]",
        muon and setting.has("hidden"),
    )
    yield (
        "MLPs under Adam at one global rate: instability less sharp, about n^-1/2 [observed, F.6]",
        adam and not norms and setting.global_lr and not readout,
    )
    yield (
        "without qk-norm the stability edge fell faster than n^-1: inconclusive [observed, Figure F.1]",
        adam and not setting.qk_norm,
    )
    yield (
        "the rules' r is no power of n: exponents are those of its limit "
        f"{'d_out >> n' if setting.large_output else 'n >> d_out'}",
        _uses_r(setting),
    )
    yield (
        "one rate for the readout beside Muon: the optimum of small MLPs and GPTs fell like n^-1/2 to n^-0.8 before "
        "any layer diverged, as the readout's update grows [observed, analysis/results/muon.csv]",
        muon and setting.family == "adam" and setting.lr_exponent("output") == 0,
    )
    yield (
        "keys and values of a fixed number of heads train as hidden and act as output; their growth is not counted "
        "in the regime [conjectured]",
        setting.kv_heads == "fixed",
    )
    small = predict(setting, prediction.alpha, small_steps=True)
    yield (
        "updates outgrow what they are added to: at finite width and small eta, exponents may long stay smaller "
        f"({_difference(small, prediction)}) [observed, Figure E.2]",
        bool(_difference(small, prediction)),
    )


def _difference(small: Prediction, full: Prediction) -> str:
    """The effective updates of `small` that are others in `full`."""
    pairs = [
        (a, a.scales[-1].effective, b.scales[-1].effective) for a, b in zip(small.layers, full.layers, strict=True)
    ]
    return ", ".join(
        f"{a.name} {exponent_text(x)}" for a, x, y in pairs if a.present and a.status == "derived" and x != y
    )


def _uses_r(setting: Setting) -> bool:
    p = setting.parameterization
    rates = (p.lr[family][role] for role, family in setting.families.items())
    return any(factor.r_exponent for factor in (*p.init.values(), *rates))
