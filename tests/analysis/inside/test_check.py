"""Exponents of coordinate checks: against numpy and known truth, their errors, theory, and the words made of
them."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

from pipeline.analysis.inside.check import Ladder, Slope, table
from pipeline.analysis.inside.lr_rules import ladders, recorded
from pipeline.analysis.inside.slopes import fit_slopes
from pipeline.analysis.inside.theory import Theory, readout_slope
from pipeline.analysis.page import words_inside
from pipeline.analysis.study.load import load_study
from pipeline.config import ModelConfig, RunConfig
from pipeline.entries.kinds import OTHER, Place, place_of
from pipeline.errors import RequestError
from pipeline.models.build import build
from pipeline.theory.orders import ZERO
from pipeline.theory.predict import predict
from tests.support.synthetic_coordinates import GPT, MLP, WIDTHS, gpt_weights, mlp_weights, write_coordinates

N = np.array(WIDTHS)


def setting_of(config):
    return Theory(config, Fraction(0), WIDTHS).setting


def fit(values_WS):
    found = fit_slopes(N[: len(values_WS)], np.asarray(values_WS, dtype=float)[..., None])
    return {field.name: getattr(found, field.name)[0] for field in dataclasses.fields(found)}


def laws(exponent, n_seeds, seed_noise=0.0, width_noise=0.0, common=0.0, seed=0):
    """Values 3 * n^exponent with lognormal noise of every run, of every width, and of every seed at all widths."""
    rng = np.random.default_rng(seed)
    log = np.log(3) + exponent * np.log(N)[:, None] + seed_noise * rng.standard_normal((len(N), n_seeds))
    log += width_noise * rng.standard_normal((len(N), 1)) + common * rng.standard_normal((1, n_seeds))
    return np.exp(log)


# ---------------------------------------------------------------------------------------------------------------------
# The fit


def test_the_slope_is_polyfits_and_an_exact_law_is_found_exactly():
    values = laws(-0.5, 3, seed_noise=0.3)
    slope, intercept = np.polyfit(np.log2(N), np.log2(values).mean(1), 1)
    found = fit(values)
    assert found["exponent"] == pytest.approx(slope, rel=1e-10)
    assert found["intercept"] == pytest.approx(intercept, rel=1e-10)
    assert (found["n_widths"], found["n_seeds"]) == (4, 3)
    exact = fit(laws(0.75, 2))
    assert exact["exponent"] == pytest.approx(0.75, abs=1e-12)
    assert exact["standard_error"] == pytest.approx(0, abs=1e-12)


def test_one_seed_has_the_error_of_a_straight_line():
    values = laws(-1, 1, seed_noise=0.1)
    reference = stats.linregress(np.log2(N), np.log2(values[:, 0]))
    found = fit(values)
    assert found["standard_error"] == pytest.approx(reference.stderr, rel=1e-9)
    assert found["half_width"] == pytest.approx(stats.t.ppf(0.975, 2) * reference.stderr, rel=1e-9)


def test_means_that_no_line_fits_give_the_error_alone():
    values = laws(0, 4, seed_noise=1e-3, width_noise=0.2)
    reference = stats.linregress(np.log2(N), np.log2(values).mean(1))
    found = fit(values)
    assert found["standard_error"] == pytest.approx(reference.stderr, rel=1e-9)
    assert found["half_width"] / found["standard_error"] == pytest.approx(stats.t.ppf(0.975, 2), rel=1e-9)


def test_where_a_line_fits_seeds_and_means_are_pooled():
    # seeds that have all widths lose their own mean: an analysis of variance with 1 + (seeds) + (widths - 1) parameters
    values = laws(0.5, 5, seed_noise=0.1, common=2.0, seed=3)
    y, x = np.log2(values), np.log2(N) - np.log2(N).mean()
    slope = (x @ y.mean(1)) / (x @ x)
    residual = y - y.mean(0) - slope * x[:, None]
    freedom = y.size - 5 - 1
    error = math.sqrt((residual**2).sum() / freedom / (5 * (x @ x)))
    found = fit(values)
    assert found["exponent"] == pytest.approx(slope)
    assert found["standard_error"] == pytest.approx(error, rel=1e-9)
    assert found["half_width"] == pytest.approx(stats.t.ppf(0.975, freedom) * error, rel=1e-9)


def test_two_widths_are_judged_by_their_seeds_alone():
    one = fit(laws(1, 1, seed_noise=0.2)[:2])
    assert one["exponent"] == pytest.approx(
        math.log2(laws(1, 1, seed_noise=0.2)[1, 0] / laws(1, 1, seed_noise=0.2)[0, 0])
    )
    assert math.isnan(one["standard_error"])
    assert math.isnan(one["half_width"])
    values = laws(1, 4, seed_noise=0.2)[:2]
    differences = np.log2(values[1] / values[0])  # a paired comparison
    error = differences.std(ddof=1) / 2
    found = fit(values)
    assert found["exponent"] == pytest.approx(differences.mean())
    assert found["standard_error"] == pytest.approx(error)
    assert found["half_width"] == pytest.approx(stats.t.ppf(0.975, 3) * error)


def test_what_is_missing_zero_or_not_finite_is_left_out():
    values = laws(-0.5, 3)
    values[0, 1], values[2, 0], values[3, 2] = math.nan, 0.0, math.inf
    found = fit(values)
    assert found["exponent"] == pytest.approx(-0.5)
    assert (found["n_widths"], found["n_seeds"]) == (4, 3)
    values[1] = 0
    found = fit(values)
    assert found["exponent"] == pytest.approx(-0.5)
    assert found["n_widths"] == 3
    values[:3] = math.nan
    assert math.isnan(fit(values)["exponent"])
    assert fit(values)["n_widths"] == 1


def test_seeds_that_lack_a_width_count_with_their_own():
    values = laws(0, 3, seed_noise=0.2, seed=5)
    values[0, 1:] = math.nan
    y, x = np.log2(values), np.log2(N) - np.log2(N).mean()
    found = fit(values)
    assert found["exponent"] == pytest.approx(x @ np.nanmean(y, 1) / (x @ x))
    assert 0.05 < found["standard_error"] < 0.3


@pytest.mark.parametrize(
    ("n_seeds", "noise"),
    [(1, {"seed_noise": 0.2}), (3, {"seed_noise": 0.2}), (3, {"seed_noise": 0.2, "common": 1.0}),
     (3, {"seed_noise": 0.05, "width_noise": 0.2}), (5, {"seed_noise": 0.1, "width_noise": 0.05})],
)  # fmt: skip
def test_intervals_hold_the_truth_as_often_as_they_say(n_seeds, noise):
    draws = [laws(0.3, n_seeds, seed=seed, **noise) for seed in range(2000)]
    found = fit_slopes(N, np.stack(draws, -1))
    # to choose an error by a test costs some where means scatter about as much as seeds do (the last case: 91 %)
    assert 0.9 < np.mean((found.low < 0.3) & (found.high > 0.3)) < 0.98


# ---------------------------------------------------------------------------------------------------------------------
# Kinds and theory


ROLES = {
    "input": "input",
    "norms": "vector",
    "biases": "vector",
    "readout": "output",
    "readout bias": "finite",
    "qk-norm": "finite",
}


@pytest.mark.parametrize("name", ["pythia-14m", "Llama-2-7b-hf", "Gemma-2b", "phi-1_5", "Qwen2.5-0.5B"])
def test_kinds_are_the_models_own_roles(name):
    config = dataclasses.replace(GPT, model=ModelConfig(name=name, n_layer=2, vocab_size=512))
    with torch.device("meta"):
        _, specs = build(config)
    for weight, spec in specs.items():
        parts = [weight.replace("qkv", row) for row in "qkv"] if "attn.qkv." in weight else [weight]
        for part in parts:
            kind = place_of(part, config)
            assert kind != OTHER, part
            assert ROLES.get(kind.group, {"embedding": "input"}.get(kind.group, "hidden")) == spec.role, part
            assert {"hidden1": "hidden"}.get(kind.layer, kind.layer) == spec.role, part
            assert (kind.part == "bias") == part.endswith(".bias"), part


def test_kinds_of_perceptrons():
    with torch.device("meta"):
        _, specs = build(MLP)
    kinds = {weight: place_of(weight, MLP) for weight in specs}
    assert [kind.layer for kind in kinds.values()] == ["input", "hidden1", "hidden", "output"]
    assert list(specs) == mlp_weights(MLP)
    assert place_of("sparsity.layers.0", MLP) == OTHER
    assert place_of("layers.0", MLP) == kinds["layers.0.weight"]


def test_a_fixed_number_of_kv_heads_is_predicted_as_output():
    fixed = dataclasses.replace(GPT, model=ModelConfig(n_layer=2, kv_heads=4))
    for row, layer in {"q": "hidden", "k": "key_value", "v": "key_value"}.items():
        assert place_of(f"transformer.h.1.attn.{row}.weight", fixed).layer == layer
    assert place_of("transformer.h.0.attn.k.weight", GPT).layer == "hidden1"
    assert place_of("transformer.h.1.attn", GPT) == Place("attention", None, "attention")


def test_predictions_are_theorys():
    theory = Theory(MLP, Fraction(-1, 2), WIDTHS)
    prediction = predict(setting_of(MLP), Fraction(1, 2), small_steps=True)
    for weight in mlp_weights(MLP):
        kind = place_of(weight, MLP)
        layer = prediction.layer(kind.layer)
        for step in (1, 3):
            assert theory.exponent(kind, "effective", step) == layer.at(step).effective.exponent
            assert theory.exponent(kind, "operator_norm_update", step) == layer.at(step).update_norm.exponent
            assert theory.exponent(kind, "gradient", step) == layer.at(step - 1).gradient.exponent
            assert theory.exponent(kind, "output", step) == layer.at(step).output.exponent
            expected = layer.at(step).propagating
            if kind.layer != "output":
                assert theory.exponent(kind, "propagating", step) == (None if expected == ZERO else expected.exponent)
    # by hand (Fig. 4): -1, 0, 0, +1/2
    effective = [theory.exponent(place_of(w, MLP), "effective", 3) for w in mlp_weights(MLP)]
    assert effective == [-1, 0, 0, 0.5]
    assert theory.regime == "controlled divergence"


def test_the_readouts_propagating_update_lies_between_its_limits():
    kind = place_of("readout.weight", MLP)
    align = dataclasses.replace(MLP, param="sp_full_align")
    found = Theory(align, Fraction(0), WIDTHS)
    assert found.exponent(kind, "propagating", 3) == pytest.approx(readout_slope(WIDTHS, 10))
    assert found.exponent(kind, "update", 3) == pytest.approx(readout_slope(WIDTHS, 10))
    assert 0.35 < readout_slope(WIDTHS, 10) < 0.45
    assert readout_slope(WIDTHS, 1) == pytest.approx(0.5, abs=0.05)
    assert readout_slope(WIDTHS, 10**9) == pytest.approx(0, abs=1e-3)
    n = np.array([100.0, 400.0])
    two = math.log((1 + math.sqrt(400 / 25)) / (1 + math.sqrt(100 / 25))) / math.log(4)
    assert readout_slope(n, 25) == pytest.approx(two)
    vocabulary = Theory(GPT, Fraction(-1), WIDTHS)
    assert vocabulary.exponent(place_of("lm_head.weight", GPT), "propagating", 3) == pytest.approx(0.03, abs=0.01)


def test_gpt_outputs_are_those_of_the_weight_not_of_the_residual_stream():
    theory = Theory(GPT, Fraction(-1), WIDTHS)

    def output(name, config=GPT):
        return Theory(config, Fraction(-1), WIDTHS).exponent(place_of(name, config), "output", 3)

    assert output("transformer.wte.weight") == -0.5  # neox: std n^-1/2
    assert output("transformer.h.1.mlp.fc.weight") == 0
    assert output("transformer.h.1.mlp.fc.bias") == -1  # zero at first: its update
    assert output("transformer.ln_f.weight") == 0
    assert output("lm_head.weight") == 0
    assert output("lm_head.weight", dataclasses.replace(GPT, param="mup")) == -0.5
    assert output("transformer.wte.weight", dataclasses.replace(GPT, embedding_init="constant")) == 0
    gain = place_of("transformer.h.1.norm_1.weight", GPT)
    assert theory.exponent(gain, "operator_norm_reference", 3) == 0
    assert theory.exponent(place_of("transformer.h.0.mlp.fc.weight", GPT), "propagating", 3) is None
    assert theory.exponent(place_of("transformer.h.0.attn.v.weight", GPT), "propagating", 3) == -0.5
    assert theory.exponent(OTHER, "effective", 3) is None
    assert theory.exponent(gain, "input", 3) is None


def test_settings_are_the_runs() -> None:
    assert (setting_of(MLP).d_out, setting_of(GPT).d_out) == ("finite", "large")
    few = dataclasses.replace(GPT, model=ModelConfig(n_layer=2, vocab_size=64))
    assert setting_of(few).d_out == "finite"
    assert (setting_of(MLP).depth, setting_of(GPT).depth) == (4, 4)
    assert (setting_of(MLP).model, setting_of(GPT).model) == ("mlp", "gpt")
    assert setting_of(GPT).kv_heads == "all"


def test_gradients_are_those_of_the_step_before_the_weights_they_made() -> None:
    zero = dataclasses.replace(MLP, readout_init="zero")
    theory = Theory(zero, Fraction(0), WIDTHS)
    hidden = place_of("layers.2.weight", zero)
    assert theory.exponent(hidden, "gradient", 1) is None  # a zero readout sends nothing back
    assert theory.exponent(hidden, "gradient", 2) is not None


def test_what_does_not_propagate_has_no_prediction() -> None:
    theory = Theory(GPT, Fraction(-1), WIDTHS)
    for name in ("transformer.wte.weight", "transformer.h.1.norm_1.bias", "transformer.h.1.mlp.fc.bias"):
        assert theory.exponent(place_of(name, GPT), "propagating", 3) is None
        assert theory.exponent(place_of(name, GPT), "update", 3) == -1


def test_what_theory_does_not_know_is_not_predicted():
    squared = dataclasses.replace(MLP, loss="mse", readout_init="zero")
    theory = Theory(squared, Fraction(1), WIDTHS)  # grows with every step
    assert theory.exponent(place_of("layers.0.weight", squared), "effective", 2) is not None
    assert theory.exponent(place_of("layers.0.weight", squared), "effective", 500) is None
    assert theory.regime == "catastrophic"


# ---------------------------------------------------------------------------------------------------------------------
# Ladders and words


FIG_4 = {
    ("effective", "layers.0.weight"): -1, ("effective", ""): 0, ("effective", "readout.weight"): 0.5,
    ("propagating", "layers.1.weight"): -1, ("propagating", "layers.2.weight"): 0,
    ("propagating", "readout.weight"): readout_slope(WIDTHS, 10), ("output", ""): 0,
}  # fmt: skip


def ladder_of(folder) -> Ladder:
    study = load_study([folder])
    [found] = ladders(study, recorded(study))
    return found


def test_a_study_as_theory_has_it_is_said_to_be_so(tmp_path):
    found = ladder_of(write_coordinates(tmp_path / "s", MLP, FIG_4, lr_exponent=Fraction(-1, 2)))
    assert (found.lr_exponent, found.widths, found.seeds, found.steps) == (
        Fraction(-1, 2),
        WIDTHS,
        (0, 1, 2),
        (1, 2, 3),
    )
    measured = {(e.quantity, e.label): e.exponent for e in found.by_group if e.step == 3}
    assert measured["effective", "input"] == pytest.approx(-1, abs=0.05)
    assert measured["effective", "readout"] == pytest.approx(0.5, abs=0.05)
    assert ("propagating", "input") not in measured
    sentences = words_inside.findings(found)
    assert "Effective and propagating updates go with width as predicted, in every group of weights." in sentences
    assert "The readout explodes as n^0.5" in " ".join(sentences)
    assert "The updates of the input layer vanish as n^" in " ".join(sentences)
    assert not any("depart" in sentence or "where n^" in sentence for sentence in sentences)
    assert words_inside.lr_rule(found) == "lr 1e-3 \u00d7 (n/256)^\u22121/2"


def test_what_departs_gets_its_sentence_and_its_advice(tmp_path):
    exponents = FIG_4 | {("effective", "layers.2.weight"): 0.5}
    found = ladder_of(write_coordinates(tmp_path / "s", MLP, exponents, lr_exponent=Fraction(-1, 2), noise=0.001))
    text = words_inside.findings(found)
    assert text[0].startswith("Hidden layers: effective updates grow as n^0.50 \u00b1 0.00")
    assert text[0].endswith("where n^0 is predicted.")
    assert any(
        s.startswith("Hidden layers (n^0.50) and the readout (n^0.50) explode")
        and s.endswith("explode: lower their learning rates with width.")
        for s in text
    )
    assert not any("as predicted" in sentence for sentence in text)
    both = FIG_4 | {("effective", "layers.2.weight"): 0.5, ("effective", "layers.1.weight"): 0.5}
    found = ladder_of(write_coordinates(tmp_path / "t", MLP, both, lr_exponent=Fraction(-1, 2), noise=0.001))
    assert words_inside.findings(found)[0].startswith(
        "Effective updates depart where n^0 is predicted: the first hidden"
    )


@pytest.mark.parametrize(
    ("norm", "counts"), [(9.0, True), (0.5, False), (None, False)]
)  # fmt: skip
def test_predictions_count_on_clipping_where_the_gradients_were_clipped(tmp_path, norm, counts):
    base = dataclasses.replace(MLP, grad_clip=1.0)
    extra = (lambda c, step: {}) if norm is None else lambda c, step: {"grad_norm": norm}
    found = ladder_of(write_coordinates(tmp_path, base, FIG_4, lr_exponent=Fraction(-1, 2), extra=extra))
    assert found.theory.clipping is counts
    hidden = found.group("effective", "hidden", 3)
    assert (hidden.predicted == 0) is not counts
    said = [sentence for sentence in words_inside.findings(found) if sentence.startswith("Clipping acted")]
    assert said == ["Clipping acted in 100 % of the steps recorded: predictions count on it."] * counts


def test_small_departures_are_told_apart_from_large_ones(tmp_path):
    exponents = FIG_4 | {("effective", "layers.2.weight"): 0.06}
    found = ladder_of(write_coordinates(tmp_path / "s", MLP, exponents, lr_exponent=Fraction(-1, 2), noise=0.002))
    hidden = found.group("effective", "hidden", 3)
    assert hidden.agrees == "no"
    assert not hidden.departs
    text = " ".join(words_inside.findings(found))
    said = "Beyond their errors, but by at most 0.1, as finite widths allow: effective updates of hidden layers."
    assert said in text
    assert "hidden layers explode" not in text.lower()


def test_without_errors_nothing_is_judged(tmp_path):
    found = ladder_of(
        write_coordinates(tmp_path / "s", MLP, FIG_4, lr_exponent=Fraction(-1, 2), widths=(64, 128), seeds=(0,))
    )
    assert {e.agrees for e in found.by_group} == {"cannot tell", "no prediction"} - (
        set() if any(e.predicted is None for e in found.by_group) else {"no prediction"}
    )
    text = words_inside.findings(found)
    one_seed = "With one seed nobody can tell whether a slope departs from what is predicted: add seeds."
    assert one_seed in text
    assert "Two widths show a slope, but not whether one power law holds: add a third." in text
    assert not any("explode" in sentence for sentence in text)


def test_one_seed_on_a_perfect_line_tells_nothing(tmp_path):
    exponents = FIG_4 | {("effective", "layers.2.weight"): 0.5}
    rule = Fraction(-1, 2)
    found = ladder_of(write_coordinates(tmp_path / "s", MLP, exponents, lr_exponent=rule, seeds=(0,), noise=1e-6))
    text = words_inside.findings(found)
    assert text[0] == "With one seed nobody can tell whether a slope departs from what is predicted: add seeds."
    assert not any("explode" in sentence or "vanish" in sentence or "depart where" in sentence for sentence in text)


def test_what_small_widths_bend_gets_no_advice(tmp_path):
    exponents = FIG_4 | {("effective", "layers.2.weight"): -0.2, ("effective", "layers.1.weight"): -0.2}
    found = ladder_of(write_coordinates(tmp_path / "s", MLP, exponents, lr_exponent=Fraction(-1, 2), noise=0.001))
    text = " ".join(words_inside.findings(found))
    assert "Effective updates depart where n^0 is predicted" in text
    assert "hidden layer" not in text.partition("The updates of")[2]


def test_groups_are_means_of_logarithms_over_blocks(tmp_path):
    names = [name for name in gpt_weights(GPT) if name.endswith("norm_2.weight") or name.endswith("ln_f.weight")]
    exponents = {("effective", name): -0.5 - 0.5 * place for place, name in enumerate(names)}
    found = ladder_of(write_coordinates(tmp_path / "s", GPT, exponents, lr_exponent=Fraction(-1), noise=0))
    by_weight = {e.label: e.exponent for e in found.by_weight if e.step == 3}
    assert by_weight == {name: pytest.approx(-0.5 - 0.5 * place) for place, name in enumerate(names)}
    groups = {e.label: e.exponent for e in found.by_group if e.step == 3}
    assert groups == {"norms (first block)": pytest.approx(-0.5), "norms": pytest.approx(-1.25)}
    assert all(e.n_seeds == 3 and e.n_widths == 4 for e in found.by_group)


def test_biases_do_not_dilute_what_gains_pass_on(tmp_path):
    exponents = {
        ("propagating", "transformer.ln_f.weight"): 0.5, ("propagating", "transformer.ln_f.bias"): -3.0,
        ("effective", "transformer.ln_f.weight"): -1.0, ("effective", "transformer.ln_f.bias"): -2.0,
    }  # fmt: skip
    found = ladder_of(write_coordinates(tmp_path / "s", GPT, exponents, noise=0))
    assert found.group("propagating", "norms", 3).exponent == pytest.approx(0.5)
    assert found.group("effective", "norms", 3).exponent == pytest.approx(-1.5)


def test_ladders_without_a_request_are_found_by_their_learning_rates(tmp_path):
    steep = write_coordinates(tmp_path / "s", MLP, FIG_4, lr_exponent=Fraction(-1, 2), ask=False)
    found = ladder_of(steep)
    assert found.lr_exponent == Fraction(-1, 2)
    assert found.lr == pytest.approx(1e-3)
    flat = tmp_path / "t"
    for lr in (1e-3, 1e-2):
        write_coordinates(flat, dataclasses.replace(MLP, lr=lr), FIG_4, seeds=(0,), ask=False)
    study = load_study([flat])
    assert [(f.lr, f.lr_exponent) for f in ladders(study, recorded(study))] == [(1e-3, 0), (1e-2, 0)]


def test_runs_at_the_base_width_belong_to_every_exponent(tmp_path):
    for exponent in (Fraction(-1), Fraction(-1, 2)):
        widths = (128, 256) if exponent == -1 else (128, 512)
        write_coordinates(tmp_path / "s", MLP, FIG_4, lr_exponent=exponent, widths=widths, seeds=(0,))
    study = load_study([tmp_path / "s"])
    found = {f.lr_exponent: f.widths for f in ladders(study, recorded(study))}
    assert found == {Fraction(-1): (128, 256), Fraction(-1, 2): (128, 256, 512)}


def test_runs_that_diverged_leave_their_steps_out(tmp_path):
    def extra(config: RunConfig, step: int):
        return {f"effective/{w}": None for w in mlp_weights(config)} if config.width == 512 and step == 3 else {}

    folder = write_coordinates(
        tmp_path / "s", MLP, FIG_4, lr_exponent=Fraction(-1, 2), extra=extra, diverged=lambda c: c.width == 512
    )
    found = ladder_of(folder)
    assert found.diverged == {512: 3}
    assert found.group("effective", "input", 3) is None  # not at every width
    assert found.group("effective", "input", 2).exponent == pytest.approx(-1, abs=0.05)
    assert "3 of them diverged" in words_inside.subtitle(found)


def test_the_table_has_a_row_per_quantity_weight_and_step(tmp_path):
    found = ladder_of(write_coordinates(tmp_path / "s", MLP, FIG_4, lr_exponent=Fraction(-1, 2)))
    rows = table([found])
    assert len(rows) == 3 * (4 + 3 + 4)
    row = rows[(rows["quantity"] == "effective") & (rows["weight"] == "readout.weight") & (rows["step"] == 3)].iloc[0]
    assert (row["param"], row["optimizer"], row["lr_exponent"], row["predicted"], row["agrees"]) == (
        "sp",
        "sgd",
        "-1/2",
        0.5,
        "yes",
    )
    assert row["ci_low"] < 0.5 < row["ci_high"]
    assert (row["n_widths"], row["n_seeds"]) == (4, 3)
    groups = table([found], "groups")
    assert "weight" not in groups
    assert set(groups["group"]) == {"input", "first hidden", "hidden", "readout"}


def test_a_damaged_request_is_one_line(tmp_path):
    folder = write_coordinates(tmp_path / "s", MLP, FIG_4, lr_exponent=Fraction(-1, 2))
    (folder / "coordcheck.json").write_text('{"lr": 1}')
    with pytest.raises(RequestError, match=r"coordcheck\.json is damaged: delete it"):
        ladder_of(folder)


@pytest.mark.parametrize(
    ("exponent", "half_width", "predicted", "agrees", "departs"),
    [(0.1, 0.2, 0.0, "yes", False), (0.15, 0.2, 0.0, "yes", False), (0.3, 0.2, 0.0, "no", True), (0.09, 0.01, 0.0, "no", False), (-0.7, 0.1, -0.5, "no", True),
     (0.0, math.nan, 0.5, "cannot tell", False), (0.5, 0.1, None, "no prediction", False)],
)  # fmt: skip
def test_agreement(exponent, half_width, predicted, agrees, departs):
    e = Slope("effective", "hidden", OTHER, 1, exponent, half_width / 2, half_width, 0.0, predicted, 4, 3)
    assert (e.agrees, e.departs) == (agrees, departs)
