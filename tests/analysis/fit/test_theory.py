import dataclasses
from fractions import Fraction

import pytest

from pipeline.analysis.fit.theory import predicted, setting_of
from pipeline.config import DataConfig, ModelConfig
from tests.support.synthetic_study import BASE

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
    assert setting_of(BASE).clipping is (BASE.grad_clip is not None)
    assert setting_of(MLP, loss="mse").loss == "mse"
    assert setting_of(MLP).loss == MLP.loss
