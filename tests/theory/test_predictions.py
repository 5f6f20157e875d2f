"""The predictions against the paper's statements, each written out by hand with its place in the paper."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from pipeline.parameterization.rules import TABLE, Factor, Parameterization
from pipeline.theory.edges import edges
from pipeline.theory.network import Setting, network
from pipeline.theory.orders import ONE, ROOT_N, ZERO, Change, N, Theta, power
from pipeline.theory.predict import Prediction, predict
from pipeline.theory.propagation import simulate
from tests.support.ruled import pairs, params_of

H = Fraction(1, 2)


def mlp(name: str, optimizer: Any = "sgd", loss: Any = "cross_entropy", **rest: Any) -> Setting:
    return Setting(TABLE[name], optimizer, loss, model="mlp", **rest)


def gpt(name: str, optimizer: Any = "adamw", loss: Any = "cross_entropy", **rest: Any) -> Setting:
    return Setting(TABLE[name], optimizer, loss, model="gpt", **rest)


def at(setting: Setting, alpha: Fraction | int) -> Prediction:
    return predict(setting, Fraction(alpha))


def effective(prediction: Prediction, step: int = 100) -> tuple[Fraction | None, ...]:
    """Of input, last hidden layer and readout, after `step` updates."""
    return tuple(prediction.layer(name).at(step).effective.exponent for name in ("input", "hidden", "output"))


def max_stable(setting: Setting) -> Fraction | None:
    return edges(setting).max_stable.exponent


# --- the algebra ---------------------------------------------------------------------------------------------------


def test_products_add_exponents_and_sums_keep_the_larger() -> None:
    assert power(H) * power(-1) == power(-H)
    assert power(H) / power(-1) == power(Fraction(3, 2))
    assert power(H) + power(-1) == power(-1) + power(H) == power(H)
    assert ZERO + power(-5) == power(-5) + ZERO == power(-5)
    assert ZERO * N == N * ZERO == ZERO
    assert (ZERO.vanishes, ZERO.diverges, ONE.vanishes, ONE.diverges, ROOT_N.diverges) == (
        True,
        False,
        False,
        False,
        True,
    )
    assert Change(N, ONE) * ROOT_N + Change(ONE, N) == Change(power(Fraction(3, 2)), N)


# --- Proposition 2: regimes of SP under SGD ------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [3, 4, 8])
@pytest.mark.parametrize(
    ("alpha", "cross_entropy", "mse"),
    [
        (Fraction(3, 2), "stable", "stable"),
        (Fraction(1), "stable", "stable"),
        (Fraction(99, 100), "controlled divergence", "catastrophic"),
        (Fraction(3, 4), "controlled divergence", "catastrophic"),
        (H, "controlled divergence", "catastrophic"),
        (Fraction(49, 100), "catastrophic", "catastrophic"),
        (Fraction(0), "catastrophic", "catastrophic"),
    ],
)
def test_proposition_2_regimes(depth: int, alpha: Fraction, cross_entropy: str, mse: str) -> None:
    assert at(mlp("sp", depth=depth), alpha).regime == cross_entropy
    assert at(mlp("sp", loss="mse", depth=depth), alpha).regime == mse


@pytest.mark.parametrize("alpha", [H, Fraction(3, 4), Fraction(9, 10)])
def test_proposition_2b_logits_diverge_but_gradients_and_activations_do_not(alpha: Fraction) -> None:
    late = at(mlp("sp"), alpha).steps[-1]
    assert late.logits == power(1 - alpha)
    assert late.loss_derivative == ONE
    assert late.activations == ONE
    for name in ("input", "hidden1", "hidden6"):
        assert late.layers[name].gradient == power(-H)
        assert late.layers[name].output == ONE


def test_proposition_2c_logits_activations_and_gradients_diverge() -> None:
    prediction = at(mlp("sp"), Fraction(2, 5))
    assert not prediction.settled
    late = prediction.steps[-1]
    assert late.logits.diverges
    assert all(late.layers[f"hidden{i}"].output.diverges for i in range(1, 7))
    assert all(late.layers[f"hidden{i}"].gradient.diverges for i in range(1, 7))


def test_c33_exponents_cascade_over_layers_and_steps() -> None:
    """delta h^2_1 = n^(1/2 - alpha), delta h^3_1 = n^(2 (1/2 - alpha)), and larger with every step."""
    prediction = at(mlp("sp"), Fraction(1, 4))
    first = [prediction.layer(f"hidden{i}").at(1).effective.exponent for i in (1, 2, 3)]
    assert first == [Fraction(1, 4), Fraction(1, 2), Fraction(3, 4)]
    sizes = [prediction.layer("hidden1").at(step).effective.exponent or Fraction(-99) for step in range(1, 6)]
    assert sizes == sorted(set(sizes))


def test_c1_signals_explode_backward_through_updates_at_constant_rate() -> None:
    """C.1, "Backward pass": dL/dx_(l-1) = max(dL/dh_l, eta n (dL/dh_0)(dL/dh_l) x), here a factor n^1/2 per layer once
    the readout's update is Theta(1)."""
    prediction = at(mlp("sp", depth=5), 0)
    signals = [prediction.layer(name).at(1).signal.exponent for name in ("hidden3", "hidden2", "hidden1", "input")]
    assert signals == [0, H, 2 * H, 3 * H]


def test_proposition_2_mse_residual_grows_without_end_below_one() -> None:
    prediction = at(mlp("sp", loss="mse"), Fraction(9, 10))
    assert [step.loss_derivative.exponent for step in prediction.steps[:4]] == [
        0,
        *(Fraction(k, 10) for k in (1, 2, 3)),
    ]


# --- Proposition 4: feature learning -------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_proposition_4a_features_vanish_in_the_stable_regime(loss: str) -> None:
    prediction = at(mlp("sp", loss=loss), 1)
    for name in ("input", *(f"hidden{i}" for i in range(1, 7))):
        change = prediction.layer(name).at(100).change.exponent
        assert change is not None
        assert change <= -H
    assert prediction.stopped == ("input", *(f"hidden{i}" for i in range(1, 7)))


@pytest.mark.parametrize("alpha", [H, Fraction(3, 4), Fraction(9, 10)])
def test_proposition_4b_rates_of_feature_learning(alpha: Fraction) -> None:
    prediction = at(mlp("sp"), alpha)
    assert prediction.layer("input").at(100).change == power(-H - alpha)
    assert all(prediction.layer(f"hidden{i}").at(100).change == power(H - alpha) for i in range(1, 7))


def test_figure_4_sp_at_the_edge() -> None:
    """lr ~ n^-1/2: input -1, hidden 0, readout +1/2, from the first step on; the input layer alone stops learning."""
    prediction = at(mlp("sp"), H)
    assert effective(prediction, 1) == effective(prediction, 3) == effective(prediction) == (-1, 0, H)
    assert prediction.stopped == ("input",)
    assert prediction.layer("hidden1").at(1).propagating == power(-1)  # the input layer's vanishing update, handed on
    assert prediction.layer("hidden2").at(1).propagating == ONE


# --- Remark 3: edges of layers and of networks; two-layer nets -----------------------------------------------------


def test_remark_3_layer_edges_of_sp_under_sgd() -> None:
    layers = edges(mlp("sp")).layers
    assert {name: claim.exponent for name, claim in layers.items()} == {"input": 0, "hidden": -H, "output": -1}
    layers = edges(gpt("sp", "sgd", embedding_init="constant")).layers
    assert {name: claim.exponent for name, claim in layers.items()} == {
        "input": 0,
        "vector": 0,  # biases and LayerNorm gains behave input-like
        "hidden": -H,
        "output": -1,
    }


@pytest.mark.parametrize("alpha", [Fraction(0), Fraction(1, 4), H, Fraction(3, 4), Fraction(99, 100)])
def test_remark_3_two_layer_nets_diverge_in_a_controlled_way_from_0_to_1(alpha: Fraction) -> None:
    """Remark C.14 says 0 to 1/2; both agree on the edge and on feature learning at alpha = 0."""
    assert at(mlp("sp", depth=2), alpha).regime == "controlled divergence"


def test_remark_c14_two_layer_nets_learn_features_at_constant_rate() -> None:
    prediction = at(mlp("sp", depth=2), 0)
    assert prediction.layer("input").at(1).effective == power(-H)  # C.1: delta h_1 = n^c n^-1/2
    assert prediction.layer("input").at(2).effective == ONE  # after two steps: W_1 = Theta(n^c)
    assert prediction.steps[-1].logits == N
    assert prediction.stopped == ()
    assert at(mlp("sp", depth=2), -Fraction(1, 100)).regime == "catastrophic"
    assert at(mlp("sp", depth=2), 1).regime == "stable"
    assert max_stable(mlp("sp", depth=2)) == 0
    assert edges(mlp("sp", depth=2)).optimal.exponent == 0  # Figure F.15
    assert max_stable(mlp("sp", depth=2, loss="mse")) == -1  # Figure F.15


# --- Remark C.15, C.1, F.6: Adam -----------------------------------------------------------------------------------


def test_remark_c15_adam() -> None:
    setting = mlp("sp", "adam")
    prediction = at(setting, 1)
    assert prediction.regime == "controlled divergence"
    assert effective(prediction) == (-1, 0, 0)
    assert prediction.layer("output").at(1).propagating == ROOT_N  # logits blow up only through W_0 dx
    assert prediction.steps[-1].logits == ROOT_N
    assert prediction.steps[-1].loss_derivative == ONE
    assert at(setting, Fraction(3, 2)).regime == "stable"
    assert at(setting, Fraction(149, 100)).regime == "controlled divergence"
    assert at(setting, Fraction(99, 100)).regime == "catastrophic"
    late = at(setting, Fraction(3, 2)).layer("output").at(100)
    assert late.propagating == ONE  # "only the term W_0 dx would contribute non-vanishingly"
    assert late.effective.vanishes


def test_adam_does_not_care_for_the_losses_scale() -> None:
    """5.1, Figure F.25: the same exponent, -1, under cross-entropy and MSE; F.6: exponents do not grow over time."""
    for loss in ("cross_entropy", "mse", "softmax_mse"):
        found = edges(mlp("sp", "adam", loss))
        assert (found.max_stable.exponent, found.optimal.exponent) == (-1, -1)
    assert at(mlp("sp", "adam", "mse"), 0).settled
    assert at(mlp("sp", "adam", "softmax_mse"), 1).steps[-1].loss_derivative == ONE  # vanishing, but normalized


def test_two_layer_nets_under_adam_keep_the_input_layer_learning() -> None:
    """C.1: eta = Theta(1) recovers input layer feature learning, logits Theta(n)."""
    prediction = at(mlp("sp", "adam", depth=2), 0)
    assert (prediction.regime, prediction.steps[-1].logits, prediction.stopped) == ("controlled divergence", N, ())
    assert max_stable(mlp("sp", "adam", depth=2)) == 0


def test_adam_and_adamw_are_one_family() -> None:
    assert at(mlp("sp", "adam"), 1).steps == at(mlp("sp", "adamw"), 1).steps


# --- 5.1, Figure 6: predicted exponents ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "loss", "exponent"),
    [("sp", "cross_entropy", -H), ("sp", "mse", -1), ("sp_full_align", "cross_entropy", 0)],
)
def test_figure_6_edge_of_controlled_divergence(name: str, loss: str, exponent: Fraction) -> None:
    found = edges(mlp(name, loss=loss))
    assert found.max_stable == found.derived_max_stable
    assert (found.max_stable.exponent, found.max_stable.status) == (exponent, "derived")
    assert (found.optimal.exponent, found.optimal.status) == (exponent, "conjectured")


def test_gpt_under_sgd_follows_its_hidden_layers() -> None:
    """Figure 5: -1/2. Figure F.8, Table F.1, where "MSE" is that of the softmax (facts.md): optimum -1, edge -1/2."""
    assert max_stable(gpt("sp", "sgd")) == edges(gpt("sp", "sgd")).optimal.exponent == -H
    found = edges(gpt("sp", "sgd", "softmax_mse"))
    assert (found.max_stable.exponent, found.optimal.exponent) == (-H, -1)


def test_adamw_with_trainable_norms_is_observed_and_without_derived() -> None:
    """Section 5.1, Figure 5: from -1/2 toward -1 when the norms' parameters are fixed."""
    found = edges(gpt("sp"))
    for claim in (found.max_stable, found.optimal):
        assert (claim.exponent, claim.status) == (-H, "observed")
    assert (found.derived_max_stable.exponent, found.derived_max_stable.status) == (-1, "derived")
    fixed = edges(gpt("sp", train_norms=False))
    assert (fixed.max_stable.exponent, fixed.max_stable.status) == (-1, "derived")
    assert fixed.optimal.exponent == -1
    for other in (mlp("sp", "adamw"), gpt("sp_full_align"), gpt("ntp"), gpt("mup"), gpt("sp", loss="mse")):
        assert edges(other).max_stable.status == "derived"


def test_e4_gpt_in_sp_under_adam() -> None:
    """Figure E.16, lr ~ 1/n: embedding and norms -1, hidden and readout 0; logits do not explode as d_out >> n."""
    prediction = at(gpt("sp"), 1)
    assert effective(prediction) == (-1, 0, 0)
    assert prediction.layer("vector").at(3).effective == power(-1)
    assert prediction.layer("output").at(3).propagating == ONE
    assert prediction.regime == "stable"
    assert {"input", "vector"} <= set(prediction.stopped)
    assert prediction.layer("vector").at(3).propagating == ONE  # Figure C.1: seen only by the refined coordinate check
    assert at(gpt("sp", d_out="finite"), 1).layer("output").at(3).propagating == ROOT_N


def test_figure_e15_hidden_and_output_diverge_at_constant_rate() -> None:
    assert effective(at(gpt("sp"), 0), 1) == (0, 1, 1)


def test_initial_readout_norm_depends_on_d_out() -> None:
    """5.2: 1 + sqrt(n / d_out)."""
    assert at(mlp("sp_full_align"), 0).layer("output").weight.init_norm == ROOT_N
    assert at(gpt("sp_full_align"), 0).layer("output").weight.init_norm == ONE
    assert at(mlp("mup"), 0).layer("output").weight.init_norm == ONE
    assert at(mlp("mup"), 0).layer("hidden").weight.init_norm == ONE


# --- F.7 and the other parameterizations ---------------------------------------------------------------------------

LAYERWISE = ["mup", "sp_full_align", "musoli", "sp_transition"]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", LAYERWISE)
def test_layerwise_rates_let_every_layer_learn_at_constant_rate(name: str, optimizer: str) -> None:
    setting = mlp(name, optimizer)
    prediction = at(setting, 0)
    assert effective(prediction, 1) == effective(prediction) == (0, 0, H if name == "musoli" else 0)
    assert prediction.stopped == ()
    assert (max_stable(setting), edges(setting).optimal.exponent) == (0, 0)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_mup_is_stable_and_width_independent_in_every_step(optimizer: str) -> None:
    """C.1, Figures E.7 and F.31."""
    prediction = at(mlp("mup", optimizer), 0)
    assert prediction.regime == "stable"
    for layer in prediction.layers:
        for step in (1, 2, 10):
            assert layer.at(step).effective == ONE
            assert layer.at(step).propagating in (ONE, ZERO)
    found = edges(mlp("mup", optimizer))
    assert found.max_stable.exponent == found.stable.exponent == found.optimal.exponent == 0
    assert found.optimal.status == "derived"
    assert edges(mlp("mup", optimizer, "mse")).max_stable.exponent == 0  # 5.3: MSE is as good under muP


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_f7_sp_full_align_and_musoli(optimizer: str) -> None:
    full_align, musoli = at(mlp("sp_full_align", optimizer), 0), at(mlp("musoli", optimizer), 0)
    for prediction in (full_align, musoli):
        assert prediction.regime == "controlled divergence"
        assert prediction.steps[-1].logits == ROOT_N
        assert prediction.layer("output").at(1).propagating == ROOT_N
    assert full_align.outrun  # "the effect of the last-layer weight updates on the softmax output is vanishing"
    assert not musoli.outrun  # "recovers a balanced influence of all layer updates"


@pytest.mark.parametrize(("b", "c"), [(0, 0), (H, H), (H, 1), (1, 1), (1, H), (Fraction(3, 4), 1)])
def test_f7_rates_that_keep_features_for_any_readout(b: Fraction, c: Fraction) -> None:
    """eta_hidden = n^(min(b, c) - 1), eta_input = n^min(b, c) learn width-independently, for any b and c of the
    readout."""
    least = min(Fraction(b), Fraction(c))
    rates = {"input": -least, "vector": -least, "hidden": 1 - least, "output": c, "finite": 0}
    sp = TABLE["sp"]
    lr = {"sgd": {role: Factor(Fraction(e)) for role, e in rates.items()}, "adam": sp.lr["adam"]}
    init = {**sp.init, "output": Factor(Fraction(b))}
    prediction = at(Setting(Parameterization("any", init, lr), "sgd", model="mlp"), 0)
    assert [prediction.layer(name).at(100).effective for name in ("input", "hidden1", "hidden6")] == [ONE] * 3
    assert prediction.steps[-1].activations == ONE


def test_ntp_is_the_kernel_regime() -> None:
    """Table C.1: input and hidden updates vanish like n^-1/2 at a constant rate; logits move."""
    prediction = at(mlp("ntp"), 0)
    assert effective(prediction) == (-H, -H, 0)
    assert prediction.layer("output").at(100).propagating == ONE
    assert (prediction.regime, prediction.stopped[0]) == ("stable", "input")
    assert max_stable(mlp("ntp", loss="mse")) == 0
    assert max_stable(mlp("ntp")) == H
    assert effective(at(mlp("ntp", "adam"), H)) == (-H, 0, 0)


def test_sp_transition_is_its_limits() -> None:
    """5.2: "transitions from SP to muP with increasing width", SP meaning SP-full-align's rates."""
    wide, narrow = mlp("sp_transition", d_out="finite"), mlp("sp_transition", d_out="large")
    assert at(wide, 0).steps == at(mlp("mup"), 0).steps
    assert at(narrow, 0).steps == at(mlp("sp_full_align", d_out="large"), 0).steps
    assert at(wide, 0).regime == at(narrow, 0).regime == "stable"


def test_logits_of_standard_readouts_are_stable_while_d_out_exceeds_n() -> None:
    """5.2: standard initialization is approximately correct where d_out >> n."""
    assert at(mlp("sp_full_align", d_out="large"), 0).regime == "stable"
    assert at(mlp("sp_full_align", d_out="finite"), 0).regime == "controlled divergence"


# --- zero readout, small steps (E.1) -------------------------------------------------------------------------------


def test_e3_zero_readout_in_sp_at_constant_rate() -> None:
    """Figure E.3: no input and hidden update in the first step, then n^0 and n^1."""
    prediction = predict(mlp("sp", depth=3, readout_init="zero"), Fraction(0), small_steps=True)
    assert effective(prediction, 1) == (None, None, 1)
    assert effective(prediction, 2) == effective(prediction, 3) == (0, 1, 1)
    full = at(mlp("sp", depth=3, readout_init="zero"), 0)
    assert effective(full, 2) == (0, 1, 2)  # where the hidden layer's growth has taken over the activations
    assert full.layer("output").at(2).propagating == ZERO


def test_e2_sp_at_constant_rate_with_and_without_the_finite_width_departure() -> None:
    """Section E.1, Figure E.2: the limit says 0 and 1, measured exponents are 1/2 smaller."""
    setting = mlp("sp", depth=3)
    assert effective(predict(setting, Fraction(0), small_steps=True), 10)[:2] == (-H, H)
    two_steps = at(setting, 0).layer("input").at(2).effective.exponent
    assert two_steps is not None
    assert two_steps >= 0


def test_zero_readout_leaves_mup_alone_after_one_step() -> None:
    prediction = at(mlp("mup", readout_init="zero"), 0)
    assert effective(prediction, 1) == (None, None, 0)
    assert effective(prediction, 2) == effective(at(mlp("mup"), 0)) == (0, 0, 0)
    assert max_stable(mlp("mup", readout_init="zero")) == 0


def test_zero_readout_starves_sp_full_align_under_sgd() -> None:
    """F.7: f's derivative is n^-min(b, c); without W_0 that is n^-1, and rates made for n^-1/2 are too small."""
    assert effective(at(mlp("sp_full_align", readout_init="zero"), 0)) == (-H, -H, 0)
    assert effective(at(mlp("sp_full_align", "adam", readout_init="zero"), 0)) == (0, 0, 0)


@pytest.mark.parametrize(("name", "optimizer"), pairs("sgd", "adam", "muon"))
def test_small_steps_change_nothing_at_and_below_the_edge(name: str, optimizer: str) -> None:
    setting = mlp(name, optimizer)
    edge = edges(setting).max_stable.exponent
    assert edge is not None
    for alpha in (-edge, -edge + Fraction(1, 4)):
        full, small = predict(setting, alpha), predict(setting, alpha, small_steps=True)
        assert effective(full) == effective(small)


# --- other losses, clipping, linear nets, embeddings, KV heads -----------------------------------------------------


def test_f4_mse_of_the_softmax() -> None:
    """Vanishing gradients under output blowup: the optimum is -1, not -1/2."""
    found = edges(mlp("sp", loss="softmax_mse"))
    assert (found.optimal.exponent, found.optimal.status) == (-1, "conjectured")
    prediction = at(mlp("sp", loss="softmax_mse"), H)
    assert prediction.steps[1].loss_derivative == ZERO
    assert prediction.steps[-1] == prediction.steps[1]  # training has ended


def test_softmax_mse_from_a_zero_readout_never_reaches_hidden_layers() -> None:
    assert edges(mlp("sp", loss="softmax_mse", readout_init="zero")).max_stable.exponent is None


def test_clipping_divides_the_rate_by_the_gradients_norm() -> None:
    """SP's gradient norm is n^1/2: |chi x^T| of the readout, and hidden n^-1/2 entries in an n x n matrix of rank
    one."""
    assert at(mlp("sp"), H).steps[0].gradient_norm == ROOT_N
    clipped = at(mlp("sp", clipping=True), 0)
    assert effective(clipped, 1) == effective(at(mlp("sp"), H), 1) == (-1, 0, H)
    assert max_stable(mlp("sp", clipping=True)) == 0
    assert edges(mlp("sp", clipping=True)).stable.exponent == -H
    assert {n: c.exponent for n, c in edges(mlp("sp", clipping=True)).layers.items()} == {
        "input": H,
        "hidden": 0,
        "output": -H,
    }
    # a diverging residual multiplies gradient and norm alike: no feedback
    assert at(mlp("sp", loss="mse", clipping=True), Fraction(1, 4)).regime == "controlled divergence"
    assert at(mlp("sp", "adam", clipping=True), 1).steps == at(mlp("sp", "adam"), 1).steps


def test_linear_nets_have_the_same_edge_and_a_smaller_optimum() -> None:
    """F.5.2: stable under n^-1/2, optimal at n^-1."""
    found = edges(mlp("sp", activation="linear"))
    assert (found.max_stable.exponent, found.max_stable.status) == (-H, "derived")
    assert (found.optimal.exponent, found.optimal.status) == (-1, "observed")


def test_neox_embedding_of_sp_gets_a_larger_gradient() -> None:
    """Std n^-1/2, and the first norm divides the signal by it: gradient n^1/2 larger than of a constant embedding."""
    neox, constant = at(gpt("sp", "sgd"), H), at(gpt("sp", "sgd", embedding_init="constant"), H)
    assert (neox.layer("input").weight.init, constant.layer("input").weight.init) == (power(-H), ONE)
    assert (neox.layer("input").initial.gradient, constant.layer("input").initial.gradient) == (ONE, power(-H))
    assert (neox.layer("input").at(9).effective, neox.layer("input").at(9).effect) == (power(-H), ONE)
    assert (constant.layer("input").at(9).effective, constant.layer("input").at(9).effect) == (power(-1), power(-1))
    assert "input" not in neox.stopped
    assert "input" in constant.stopped
    assert max_stable(gpt("sp", "sgd", embedding_init="constant")) == max_stable(gpt("sp", "sgd")) == -H


def test_the_residual_stream_carries_on_what_a_vanishing_branch_does_not_add_to() -> None:
    sp = TABLE["sp"]
    weak = Parameterization("weak", {**sp.init, "hidden": Factor(Fraction(1))}, sp.lr)
    prediction = at(Setting(weak, "sgd", embedding_init="constant"), 2)
    assert [prediction.layer(f"hidden{i}").initial.output for i in (1, 6)] == [ONE, ONE]
    mlp_of_it = at(Setting(weak, "sgd", model="mlp"), 2)
    assert [mlp_of_it.layer(f"hidden{i}").initial.output for i in (1, 6)] == [power(-H), power(-3)]


def test_a_fixed_number_of_kv_heads_trains_as_hidden_and_acts_as_output() -> None:
    """Design, section 4."""
    layer = at(gpt("sp", kv_heads="fixed"), 1).layer("key_value")
    assert (layer.weight.trained_as, layer.weight.acts_as, layer.status) == ("hidden", "output", "conjectured")
    assert layer.weight.init_norm == ROOT_N
    assert layer.at(1).propagating == ROOT_N  # q = 1, as in the readout
    assert layer.at(1).effective == ONE
    sgd = at(gpt("sp", "sgd", kv_heads="fixed"), H)
    assert sgd.layer("key_value").at(1).effective == sgd.layer("output").at(1).effective == ROOT_N


def test_qk_norm_gains_are_one_tensor_for_all_heads() -> None:
    """Their gradient sums over n / head_size heads: like n^1/2 at first."""
    layer = at(gpt("sp", "sgd"), H).layer("finite")
    assert layer.initial.gradient == ROOT_N * at(gpt("sp", "sgd"), H).layer("hidden").initial.signal
    assert layer.status == "conjectured"
    assert not at(gpt("sp", train_norms=False), 1).layer("finite").present


# --- the machinery -------------------------------------------------------------------------------------------------

EVERY = [
    (name, optimizer, loss, model)
    for name, optimizer in pairs("sgd", "adam", "muon")
    for loss in ("cross_entropy", "mse")
    for model in ("mlp", "gpt")
]


@pytest.mark.parametrize(("name", "optimizer", "loss", "model"), EVERY)
def test_what_has_not_settled_in_the_steps_followed_never_does(
    name: Any, optimizer: Any, loss: Any, model: Any
) -> None:
    setting = Setting(TABLE[name], optimizer, loss, model=model, depth=4)
    for alpha in (Fraction(k, 8) for k in range(-8, 13, 5)):
        settled = predict(setting, alpha).settled
        history, later = simulate(network(setting), setting.family, setting.loss, False, alpha, 40)
        assert later == settled
        assert settled or (history[-1].logits.diverges and history[-1].activations.diverges)


@pytest.mark.parametrize(("name", "optimizer", "loss", "model"), EVERY)
def test_the_networks_edge_is_the_least_stable_layers(name: Any, optimizer: Any, loss: Any, model: Any) -> None:
    """Definition C.11, two ways: the followed run's edge against the layers' edges in closed form. The readout counts
    where logits feed back (MSE under SGD); there W_0 dx may diverge at smaller rates still."""
    found = edges(Setting(TABLE[name], optimizer, loss, model=model, depth=4))
    layers = {kind: claim.exponent for kind, claim in found.layers.items() if kind != "output"}
    if model == "gpt":
        layers.pop("input")  # judged against the embedding's own scale, not by its effective update
    edge = min(e for e in layers.values() if e is not None)
    if loss == "mse" and optimizer == "sgd":
        assert found.derived_max_stable.exponent == found.stable.exponent
    else:
        assert found.derived_max_stable.exponent == edge
    assert found.stable.exponent is not None
    assert found.stable.exponent <= min(edge, found.layers["output"].exponent or Fraction(99))


def test_edges_off_the_quarter_grid_are_exact() -> None:
    rates = {role: Factor(Fraction(1, 7)) for role in ("input", "vector", "hidden", "output", "finite")}
    sp = TABLE["sp"]
    shifted = Parameterization("shifted", sp.init, {"sgd": rates, "adam": rates})
    assert max_stable(Setting(shifted, "sgd", model="mlp")) == -H + Fraction(1, 7)
    assert max_stable(Setting(shifted, "adam", model="mlp")) == -1 + Fraction(1, 7)


@pytest.mark.parametrize("depth", [3, 12])
@pytest.mark.parametrize(("name", "optimizer"), pairs("sgd", "adam", "muon"))
def test_edges_do_not_depend_on_how_many_hidden_layers(name: str, optimizer: str, depth: int) -> None:
    deep, shallow = edges(mlp(name, optimizer, depth=depth)), edges(mlp(name, optimizer, depth=8))
    assert deep.max_stable.exponent == shallow.max_stable.exponent
    assert deep.stable.exponent == shallow.stable.exponent


def test_predictions_follow_exponents_not_names() -> None:
    renamed = replace(TABLE["sp"], name="my_own")
    assert predict(Setting(renamed, "sgd"), H).steps == predict(Setting(TABLE["sp"], "sgd"), H).steps
    assert edges(Setting(renamed)).max_stable == edges(Setting(TABLE["sp"])).max_stable


def test_everything_is_an_exact_fraction() -> None:
    for snapshot in at(mlp("sp"), H).steps:
        for layer in snapshot.layers.values():
            values = [layer.update, layer.effective, layer.propagating, layer.output, layer.gradient]
            assert all(isinstance(theta, Theta) for theta in values)
            assert all(theta.exponent is None or isinstance(theta.exponent, Fraction) for theta in values)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depth": 1}, "at least 2 weight matrices"),
        ({"model": "gpt", "depth": 2}, "depth 2 is for the mlp"),
        ({"model": "gpt", "activation": "linear"}, "linear is for the mlp"),
        ({"model": "mlp", "embedding_init": "neox"}, "neox is for the gpt"),
        ({"model": "mlp", "kv_heads": "fixed"}, "kv_heads fixed is for the gpt"),
    ],
)
def test_meaningless_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Setting(TABLE["sp"], **wrong)


def test_unknown_layers_and_steps_are_refused() -> None:
    prediction = at(mlp("sp", depth=3), 0)
    with pytest.raises(ValueError, match="choose one of input, vector, hidden1, output, finite"):
        prediction.layer("norm")
    with pytest.raises(ValueError, match="grow with every step"):
        prediction.layer("hidden").at(1000)
    with pytest.raises(ValueError, match="no layer 'hidden0'"):
        at(mlp("sp", depth=2), 0).layer("hidden")


def test_an_initialization_that_diverges_is_refused() -> None:
    sp = TABLE["sp"]
    wild = Parameterization("wild", {**sp.init, "hidden": Factor(Fraction(0))}, sp.lr)
    with pytest.raises(ValueError, match="initialization itself diverges"):
        edges(Setting(wild, "sgd", model="mlp"))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize(
    "loss", ["cross_entropy", *(pytest.param(loss, marks=pytest.mark.slow) for loss in ("mse", "softmax_mse"))]
)
@pytest.mark.parametrize("model", ["mlp", "gpt"])
def test_edges_and_regimes_of_deep_nets_are_those_that_they_are_looked_for_at(model, loss, optimizer, monkeypatch):
    for param in (TABLE[name] for name in params_of(optimizer, bounded=True)):
        for clipping in (False, True):
            setting = Setting(param, optimizer, loss, model, depth=12, clipping=clipping)
            found = edges(setting)
            with monkeypatch.context() as patched:
                patched.setattr("pipeline.theory.edges.DEEP", 12)
                assert edges(setting) == found


def test_deep_nets_settle_as_soon_as_shallow_ones():
    for depth in (8, 40):
        assert len(predict(mlp("sp", depth=depth), H).steps) <= 4
        assert not predict(mlp("sp", depth=depth), Fraction(0)).settled
