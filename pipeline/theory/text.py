"""What follows from the rules, as plain text that a person reads."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

from pipeline.console import table
from pipeline.entries.losses import LOSSES
from pipeline.parameterization.rules import TABLE, Family, Parameterization
from pipeline.parameterization.table_text import INIT_ROLES, LEGEND, LR_ROLES, factor_text, init_cells
from pipeline.theory.edges import Claim, edges, two_layer_linear
from pipeline.theory.network import Setting
from pipeline.theory.orders import Theta
from pipeline.theory.predict import LayerHistory, Prediction, predict
from pipeline.theory.propagation import LayerScales

_READING = (
    "  e stands for n^e: RMS entries of initial weights and gradients, RMS norms of the rest. -: exactly zero at every",
    "  width. up: grows with every step. effective: |dW x|, propagating: |W0 dx|. learns: no vanishing effective "
    "update.",
)


def theory_text(setting: Setting, alpha: Fraction | None = None) -> str:
    """What `setting` predicts under lr = eta * n^-alpha; None: at the predicted largest stable rate."""
    found = edges(setting)
    if alpha is None:
        edge = found.derived_max_stable.exponent
        alpha = -(found.stable.exponent or Fraction(0)) if edge is None else -edge
        rate = f"lr = eta * n^{-alpha}, the edge that the scaling arguments give"
    else:
        rate = f"lr = eta * n^{-alpha}"
    prediction = predict(setting, alpha)
    lines = [_title(setting), rate, ""]
    lines += table(_layer_rows(prediction))
    lines += ["", *_READING, ""]
    lines += table(
        [
            ("regime", prediction.regime, "", _source("derived", "Definition 1"), _regime_words(prediction)),
            ("max-stable lr", *_claim_cells(found.max_stable)),
            *(
                []
                if found.max_stable == found.derived_max_stable
                else [("  derived", *_claim_cells(found.derived_max_stable))]
            ),
            ("optimal lr", *_claim_cells(found.optimal)),
            ("stable lr", *_claim_cells(found.stable)),
            *((f"  {name} alone", *_claim_cells(claim)) for name, claim in found.layers.items()),
        ]
    )
    lines += ["", *(f"- {note}" for note in notes(prediction))]
    return "\n".join(lines)


def _title(setting: Setting) -> str:
    return (
        f"{setting.parameterization.name}, {setting.optimizer}, {LOSSES[setting.loss].words}, {_network_words(setting)}"
    )


def _network_words(setting: Setting) -> str:
    parts = [f"{setting.model} of depth {setting.depth}"]
    parts.append("d_out >> n" if setting.large_output else "n >> d_out")
    if setting.architecture.normalized:
        parts.append(f"{setting.embedding.removesuffix('_always')} embedding")
    said = {
        "tied to the readout": setting.tied,
        "no qk-norm": setting.architecture.normalized and not setting.qk_norm,
        "qk-norms as norms": setting.qk_norm_role == "vector",
        "linear": setting.activation == "linear",
        "norms": setting.norms,
        "fixed norms": setting.normalized and not setting.train_norms,
        "biases": setting.biases,
        "residual": setting.residual,
        "normalized logits": setting.logit_norm,
        "zero readout": setting.readout_init == "zero",
        "only the readout trained": setting.train == "readout",
        "input fixed": setting.train == "no_input",
        "clipping active": setting.clipping,
    }
    return ", ".join([*parts, *(words for words, holds in said.items() if holds)])


def _layer_rows(prediction: Prediction) -> list[tuple[str, ...]]:
    head = ("", "", "", "", "", "1 step", "", "many", "", "", "", "")
    names = ("weight", "init", "|W0|", "output", "gradient", "effective", "propagating")
    rows: list[tuple[str, ...]] = [head, (*names, "effective", "propagating", "output", "learns", "status")]
    for name, layer in _grouped(prediction):
        first, late = layer.at(1), layer.many
        rows.append(
            (
                name,
                exponent_text(layer.weight.init),
                exponent_text(layer.weight.init_norm),
                exponent_text(layer.initial.output),
                exponent_text(layer.initial.gradient),
                *_updates(first),
                *(_updates(late) if late else ("up", "up")),
                exponent_text(late.output) if late else "up",
                "yes" if layer.learns else "no",
                layer.status,
            )
        )
    return rows


def _grouped(prediction: Prediction) -> Iterator[tuple[str, LayerHistory]]:
    """The layers of the network, hidden ones that scale alike at every step as one."""
    run: list[LayerHistory] = []
    for layer in prediction.layers:
        if not layer.present:
            continue
        if run and (layer.weight.acts_as, layer.scales) != (run[0].weight.acts_as, run[0].scales):
            yield _group_name(prediction.setting, run), run[0]
            run = []
        run.append(layer)
    yield _group_name(prediction.setting, run), run[0]


def _group_name(setting: Setting, run: Sequence[LayerHistory]) -> str:
    if len(run) > 1:
        return "hidden" if len(run) == setting.depth - 2 else f"{run[0].name}-{run[-1].name.removeprefix('hidden')}"
    return setting.architecture.names.get(run[0].name, run[0].name)


def _updates(scales: LayerScales) -> tuple[str, str]:
    return exponent_text(scales.effective), exponent_text(scales.propagating)


def exponent_text(theta: Theta) -> str:
    return "-" if theta.exponent is None else _signed(theta.exponent)


def _signed(exponent: Fraction) -> str:
    return f"+{exponent}" if exponent > 0 else str(exponent)


def _claim_cells(claim: Claim) -> tuple[str, str, str, str]:
    exponent = "no bound" if claim.exponent is None else f"n^{claim.exponent}"
    return exponent, "", _source(claim.status, claim.source), claim.reason


def _source(status: str, source: str) -> str:
    return f"[{status}, {source}]"


def _regime_words(prediction: Prediction) -> str:
    late = prediction.steps[-1]
    if prediction.regime == "stable":
        return "activations and logits stay bounded"
    if prediction.regime == "controlled divergence":
        if late.logits.diverges:
            return f"logits grow like n^{late.logits.exponent}, activations do not"
        return f"the residual stream grows like n^{late.activations.exponent}, which norms keep from the logits"
    return "logits and activations grow with width" + ("" if prediction.settled else ", faster with every step")


def notes(prediction: Prediction) -> list[str]:
    """What a reader must know beyond the exponents: who stops learning, limits taken, and where published runs
    differ."""
    return [note for note, holds in _all_notes(prediction.setting, prediction) if holds]


def _all_notes(setting: Setting, prediction: Prediction) -> Iterator[tuple[str, bool]]:
    sgd, norms, shallow = setting.family == "sgd", setting.normalized, setting.depth == 2
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
    yield "clipping does nothing under Adam, which normalizes anyway", not sgd and setting.clipping
    yield (
        "MLPs under Adam at one global rate: instability less sharp, about n^-1/2 [observed, F.6]",
        not sgd and not norms and setting.global_lr and not readout,
    )
    yield (
        "without qk-norm the stability edge fell faster than n^-1: inconclusive [observed, Figure F.1]",
        not sgd and not setting.qk_norm,
    )
    yield (
        "the rules' r is no power of n: exponents are those of its limit "
        f"{'d_out >> n' if setting.large_output else 'n >> d_out'}",
        _uses_r(setting.parameterization, setting.family),
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


def _uses_r(p: Parameterization, family: Family) -> bool:
    return any(factor.r_exponent for factors in (p.init, p.lr[family]) for factor in factors.values())


def all_text(setting: Setting) -> str:
    """Every parameterization and optimizer family: the rules, and the predictions for `setting`'s network under CE and
    MSE."""
    optimizers: tuple[str, ...] = ("sgd", "adamw")
    rows = [
        ("", "", "init std", "", "", "lr factor", "", "", "", "cross-entropy", "", "MSE", ""),
        ("param", "optimizer", *INIT_ROLES, *LR_ROLES, "max-stable", "optimal", "max-stable", "optimal"),
    ]
    for p in TABLE.values():
        for optimizer in optimizers:
            one = replace(setting, parameterization=p, optimizer=optimizer)
            cells = []
            for loss in ("cross_entropy", "mse"):
                found = edges(replace(one, loss=loss))
                cells += [_short(found.max_stable), _short(found.optimal)]
            lrs = (factor_text(p.lr[one.family][role]) for role in LR_ROLES)
            rows.append((p.name, optimizer, *init_cells(p), *lrs, *cells))
    lines = [
        (
            "Initial std and learning rate over their values at the base width; predicted exponents for "
            f"{_network_words(setting)}."
        ),
        "",
    ]
    lines += [*table(rows), "", *(f"  {line}" for line in LEGEND)]
    return "\n".join(
        [*lines, "  (d) derived, (c) conjectured, (o) observed in the published runs; `--param` gives the reasons."]
    )


def _short(claim: Claim) -> str:
    exponent = "no bound" if claim.exponent is None else f"n^{claim.exponent}"
    return f"{exponent} ({claim.status[0]})"
