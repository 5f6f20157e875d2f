"""What follows from the rules, as plain text that a person reads."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from pipeline.console import table
from pipeline.entries.losses import LOSSES
from pipeline.entries.optimizers import OPTIMIZERS
from pipeline.parameterization.rules import HALF, TABLE
from pipeline.parameterization.table_text import INIT_ROLES, LEGEND, LR_ROLES, factor_text, init_cells
from pipeline.theory.edges import Claim, edges
from pipeline.theory.network import Setting
from pipeline.theory.notes import exponent_text, notes
from pipeline.theory.predict import LayerHistory, Prediction, predict
from pipeline.theory.propagation import LayerScales

_READING = (
    "  e stands for n^e: RMS entries of initial weights and gradients, RMS norms of the rest. -: exactly zero at every",
    "  width. up: grows with every step. effective: |dW x|, propagating: |W0 dx|. learns: no vanishing effective "
    "update.",
)


_FAMILIES: tuple[str, ...] = ("sgd", "adamw", "muon")
_LOSSES: tuple[str, ...] = ("cross_entropy", "mse")


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


def as_json(setting: Setting, alpha: Fraction | None = None) -> dict[str, Any]:
    """The predicted exponents of `theory_text`, as texts such as ``-1/2``; None: no bound."""
    found = edges(setting)
    claims = {"max_stable": found.max_stable, "optimal": found.optimal, "stable": found.stable}
    return {
        "param": setting.parameterization.name,
        "optimizer": setting.optimizer,
        **({"muon_scale": setting.muon_scale} if setting.orthogonalizes else {}),
        "loss": setting.loss,
        "network": _network_words(setting),
        **({} if alpha is None else {"alpha": str(alpha), "regime": predict(setting, alpha).regime}),
        **{
            name: {
                "exponent": None if claim.exponent is None else str(claim.exponent),
                "status": claim.status, "source": claim.source, "reason": claim.reason,
            }
            for name, claim in claims.items()
        },
    }  # fmt: skip


def all_json(setting: Setting) -> list[dict[str, Any]]:
    """`as_json` of what `all_text` shows."""
    return [as_json(replace(one, loss=loss)) for one in _all(setting) for loss in _LOSSES]


def _all(setting: Setting) -> Iterator[Setting]:
    """Under every parameterization and optimizer that have rules and start at activations and logits of bounded
    size."""
    for p in TABLE.values():
        for optimizer in _FAMILIES:
            if not p.knows(OPTIMIZERS[optimizer].families(setting.muon_scale)):
                continue
            one = replace(setting, parameterization=p, optimizer=optimizer)
            if p.init["output"].exponent >= HALF or p.init["output"].r_exponent:
                yield one


def _title(setting: Setting) -> str:
    optimizer = setting.optimizer + f" ({setting.muon_scale})" * setting.orthogonalizes
    return f"{setting.parameterization.name}, {optimizer}, {LOSSES[setting.loss].words}, {_network_words(setting)}"


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


def all_text(setting: Setting) -> str:
    """Every parameterization and optimizer family: the rules, and the predictions for `setting`'s network under CE and
    MSE."""
    rows = [
        ("", "", "init std", "", "", "lr factor", "", "", "", "cross-entropy", "", "MSE", ""),
        ("param", "optimizer", *INIT_ROLES, *LR_ROLES, "max-stable", "optimal", "max-stable", "optimal"),
    ]
    for one in _all(setting):
        p, cells = one.parameterization, []
        for loss in _LOSSES:
            found = edges(replace(one, loss=loss))
            cells += [_short(found.max_stable), _short(found.optimal)]
        lrs = (factor_text(p.lr[one.families[role]][role]) for role in LR_ROLES)
        rows.append((p.name, one.optimizer, *init_cells(p), *lrs, *cells))
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
