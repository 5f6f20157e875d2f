import dataclasses
from fractions import Fraction

import pytest

from pipeline.analysis.fit.study_fit import fit
from pipeline.analysis.fit.theory import predicted, setting_of
from pipeline.analysis.page import words_fit
from pipeline.analysis.study.clipping import Clipping
from pipeline.config import DataConfig, ModelConfig
from tests.support.synthetic_study import BASE, valley, write_study

MLP = dataclasses.replace(
    BASE,
    optimizer="sgd",
    grad_clip=None,
    data=DataConfig(name="digits", format="digits"),
    model=ModelConfig(kind="mlp", n_layer=4),
)


@pytest.mark.parametrize(
    ("config", "asked", "quantity", "exponent", "status"),
    [
        (MLP, ("sp", "sgd", "cross_entropy"), "max_stable", Fraction(-1, 2), "derived"),
        (MLP, ("sp", "sgd", "mse"), "max_stable", Fraction(-1), "derived"),
        (MLP, ("mup", "sgd", "cross_entropy"), "optimal", Fraction(0), "derived"),
        (BASE, ("sp", "adamw", "cross_entropy"), "optimal", Fraction(-1, 2), "observed"),
    ],
)
def test_theory_knows_the_studys_own_setting(config, asked, quantity, exponent, status):
    found = predicted(config, *asked)[quantity]
    assert (found.exponent, found.status) == (exponent, status)
    assert found.source


def test_what_theory_has_no_setting_for_has_no_prediction():
    assert predicted(MLP, "sp", "no-such-optimizer", "cross_entropy") == {}


def test_a_setting_is_the_runs_own_but_for_what_is_given():
    assert not setting_of(BASE).clipping  # whether a threshold acts is in the gradients
    assert setting_of(BASE, clipping=True).clipping
    assert setting_of(MLP, loss="mse").loss == "mse"
    assert setting_of(MLP).loss == MLP.loss


GPT_SGD = dataclasses.replace(BASE, optimizer="sgd", weight_decay=0.0)


@pytest.mark.parametrize(
    ("share", "exponent", "hangs"),
    [(0.0, Fraction(-1, 2), "never"), (0.5, Fraction(-1, 2), "sometimes"), (1.0, Fraction(0), "always")],
)
def test_clipping_counts_where_it_always_acted(share, exponent, hangs):
    seen = Clipping({64: share, 128: share})
    found = predicted(GPT_SGD, "sp", "sgd", "cross_entropy", {"optimal": seen, "max_stable": Clipping({64: 0.0})})
    assert found["optimal"].exponent == exponent
    assert found["optimal"].clipping.acts == hangs
    assert {found["optimal"].exponent, found["optimal"].otherwise} == {Fraction(-1, 2), Fraction(0)}
    assert found["max_stable"].exponent == Fraction(-1, 2)


def test_nothing_hangs_on_clipping_under_adam():
    always = Clipping({64: 1.0})
    found = predicted(BASE, "sp", "adamw", "cross_entropy", {"optimal": always, "max_stable": always})
    assert all(claim.clipping is None for claim in found.values())


@pytest.mark.parametrize(
    ("norm", "grad_clip", "theory", "words"),
    [
        (lambda c, step: 3.0, 10_000.0, "\u22121/2 for the optimum", None),
        (lambda c, step: 3.0, 1.0, "has 0 for the optimum", "clipping acted in nearly every step (100 %)"),
        (
            lambda c, step: 3.0 if step <= c.width * 60 / 256 else 0.5,
            1.0,
            "\u22121/2 for the optimum",
            "clipping acted in 25 % to 100 % of the steps, not in every one: theory for the optimum is without it; in "
            "every step 0.",
        ),
        (None, 1.0, "\u22121/2 for the optimum", "Whether clipping acted is not recorded"),
    ],
)  # fmt: skip
def test_a_fit_takes_clipping_from_the_recorded_norms(tmp_path, norm, grad_clip, theory, words):
    write_study(tmp_path, valley(-0.5), optimizer="sgd", weight_decay=0.0, grad_clip=grad_clip, norm=norm)
    (group,) = fit([tmp_path]).groups
    assert theory in words_fit.answer(group)
    said = [note for note in words_fit.notes(group) if "lipping" in note and "optimum" in note]
    assert len(said) == (words is not None)
    assert not said or words in said[0]
