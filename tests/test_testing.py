"""`pipeline.testing`: a parameterization as an assertion."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.testing import assert_parameterization
from tests.audit.models import MLP, fan_in_


def build(width: int, readout: float = 1.0) -> Any:
    model = MLP(width)
    fan_in_(model)
    nn.init.normal_(model.last.weight, std=math.pow(width, -readout))
    scaled = [model.middle.weight, model.last.weight]
    rest = [model.first.weight, model.first.bias, model.middle.bias, model.last.bias]
    return model, torch.optim.Adam([{"params": scaled, "lr": 0.1 / width}, {"params": rest, "lr": 1e-3}])


def test_a_build_is_what_it_is_meant_to_be_or_says_why_not() -> None:
    assert assert_parameterization(build, "mup", (32, 64, 128)).ok
    with pytest.raises(
        AssertionError, match=r"not mup: 1 of 6 tensors depart\n- last.weight: initial std .*SP readout"
    ):
        assert_parameterization(lambda n: build(n, 0.5), "mup", (32, 64, 128))
