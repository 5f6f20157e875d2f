"""What is measured, against what measures it otherwise: the coordinate check, closed forms, an equivalent spelling."""

import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.audit import builds, layout, measure
from pipeline.audit.audit import audit
from pipeline.audit.layout import End
from pipeline.audit.measure import Values
from pipeline.audit.optimizers import Response, responses
from pipeline.diagnostics.coordinate_check import CoordinateCheck
from tests.audit import models

WIDTHS = (32, 64)


def measured(build: builds.Build, width: int, steps: int = 3) -> tuple[list[End], dict[str, Response], Values]:
    several = [builds.call(build, n, 0) for n in WIDTHS]
    ends = measure.with_roles(several, layout.ends_of(several))
    response = responses(builds.call(build, width, 0))
    return ends, response, measure.measure(builds.call(build, width, 0), ends, response, steps).values


def test_updates_are_those_of_the_coordinate_check() -> None:
    """Formed there on the weights, here by calling modules again; mean of norms there, norm of all here, so that inputs
    of one norm are compared: a norm stands before each matrix."""

    class Normed(nn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.first, self.ln, self.last = nn.Linear(16, n), nn.LayerNorm(n), nn.Linear(n, 10, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.ln(self.first(x)))

    def build(n: int) -> Any:
        model = Normed(n)
        return model, torch.optim.Adam(model.parameters(), lr=1e-2), F.normalize(torch.randn(1, 16)) * 4

    _, _, values = measured(build, 64)
    built = builds.call(build, 64, 0)
    start = {name: p.detach().clone() for name, p in built.model.named_parameters()}
    check = CoordinateCheck(built.model, built.batch, initial=start.__getitem__)
    check.refer()
    for _ in range(3):
        built.model.zero_grad()
        built.loss(built.model, built.batch).backward()
        built.optimizers[0].step()
    expected = check.check()
    compared = [key for key in expected if key.partition("/")[0] in ("effective", "propagating")]
    assert len(compared) == 10
    for key in compared:
        quantity, _, name = key.partition("/")
        if expected[key] > 0:
            assert values[quantity, name] == pytest.approx(expected[key], rel=2e-4), key


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_spellings_that_are_one_model_measure_alike(optimizer: Any) -> None:
    """A multiplier a that std and rate make up for: abc-symmetry, a s and a r (Adam), a^2 r (SGD) being what they were."""
    powers = {"first": 0.5, "middle": -0.5, "last": 1.0}

    class Scaled(nn.Linear):
        multiplier = 1.0

        def forward(self, input: Tensor) -> Tensor:
            return F.linear(input, self.weight) * self.multiplier + (0 if self.bias is None else self.bias)

    def build(spelled: bool, n: int) -> Any:
        model = models.MLP(n)
        groups: list[dict[str, Any]] = []
        for name, layer in model.named_children():
            layer.__class__ = Scaled
            assert isinstance(layer, Scaled)
            a = n ** powers[name] if spelled else 1.0
            layer.multiplier = a
            layer.weight.data /= a
            rate = 1e-2 / (a if optimizer is torch.optim.Adam else a * a)
            groups += [{"params": [layer.weight], "lr": rate}, {"params": [layer.bias], "lr": 1e-2}]
        return model, optimizer(groups, lr=1e-2)

    one = audit(lambda n: build(False, n), (32, 64, 128), seeds=1)
    other = audit(lambda n: build(True, n), (32, 64, 128), seeds=1)
    assert one.named.name == other.named.name == "sp"
    for end in one.evidence.ends:
        for quantity in ("std", "speed", "effective"):
            a, b = one.evidence.exponent(quantity, end.label), other.evidence.exponent(quantity, end.label)
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                assert b.value == pytest.approx(a.value, abs=0.02), (end.label, quantity)
    spelled = {end.label: other.evidence.exponent("multiplier", end.label) for end in other.evidence.ends}
    for name, power in powers.items():
        found = spelled[f"{name}.weight"]
        assert found is not None
        assert found.value == pytest.approx(power, abs=0.1)


class Lion(torch.optim.Optimizer):
    """Of none of torch's classes."""

    def __init__(self, params: Iterable[Any], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p -= group["lr"] * p.grad.sign()


FAMILIES = {
    "SGD": (lambda ps: torch.optim.SGD(ps, lr=0.25, momentum=0.9), "sgd"),
    "AdamW": (lambda ps: torch.optim.AdamW(ps, lr=0.25, eps=1e-3, weight_decay=0.5), "adam"),
    "RMSprop": (lambda ps: torch.optim.RMSprop(ps, lr=0.025, alpha=0.99), "adam"),
    "sign": (lambda ps: Lion(ps, lr=0.25), "adam"),
    "Muon": (lambda ps: torch.optim.Muon([p for p in ps if p.ndim == 2], lr=0.25), "muon"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_an_optimizer_is_known_by_what_it_does(name: str) -> None:
    make, family = FAMILIES[name]

    def build(n: int) -> Any:
        model = nn.Sequential(nn.Linear(16, n, bias=False), nn.Linear(n, n, bias=False), nn.Linear(n, 16, bias=False))
        return model, make(list(model.parameters()))

    for n in (32, 64):
        found = responses(builds.call(build, n, 0))
        assert {one.family for one in found.values()} == {family}
        if family != "muon":
            assert [one.rate for one in found.values()] == pytest.approx([0.25] * 3, rel=1e-2)
    if family == "muon":  # torch's scale: sqrt(max(1, out / in)), of singular values up to 1.2
        shapes = [(64, 16), (64, 64), (16, 64)]
        for one, (out, fan_in) in zip(found.values(), shapes, strict=True):
            assert 0.9 < one.rate / (0.25 * math.sqrt(max(1, out / fan_in) * fan_in / out)) < 1.3


def test_half_precision_weights_do_not_swallow_the_step() -> None:
    def build(n: int) -> Any:
        model = models.MLP(n).bfloat16()
        return model, torch.optim.Adam(model.parameters(), lr=1e-4), torch.randn(8, 16, dtype=torch.bfloat16)

    found = responses(builds.call(build, 32, 0))
    assert {one.family for one in found.values()} == {"adam"}
    assert found["last.bias"].rate == pytest.approx(1e-4, rel=0.01)


def test_roles_follow_from_shapes_and_what_reads_what() -> None:
    ends, _, values = measured(models.mup_moe, 64)
    roles = {end.label: (end.role, end.inner) for end in ends}
    assert roles["wte.weight"] == ("input", False)
    assert roles["cls"] == ("input", False)
    assert roles["experts.router.weight"] == ("hidden", True)
    assert roles["experts.up"] == roles["experts.down"] == ("hidden", False)
    assert roles["ln1.weight"] == ("vector", False)
    assert roles["head.weight"] == ("output", False)
    assert ("effective", "experts.up") in values
    tied, _, _ = measured(models.mup_tied, 64)
    assert [(end.label, end.role, end.tied) for end in tied if end.tensor == "wte.weight"] == [
        ("wte.weight", "input", True),
        ("wte.weight as head.weight", "output", True),
    ]
    kv, _, _ = measured(models.mup_gqa, 64)
    assert {end.label for end in kv if end.inner} == {f"blocks.{b}.attn.{of}.weight" for b in (0, 1) for of in "kv"}


class Gated(nn.Module):
    """A state-space model's parameters: one number per feature and state, and what makes features of one size."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.randn(n, 8))
        self.project = nn.Linear(n, n, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x) * self.decay.sigmoid().mean(1)


def test_raw_tensors_that_nothing_is_multiplied_by_sum_over_nothing() -> None:
    def build(n: int) -> Any:
        model = nn.Sequential(nn.Linear(16, n), Gated(n), nn.Linear(n, 10))
        return model, torch.optim.Adam(model.parameters(), lr=1e-3), torch.randn(8, 16)

    ends, _, _ = measured(build, 64)
    assert {end.label: (end.role, end.inner) for end in ends}["1.decay"] == ("input", False)


def test_features_that_grow_are_not_the_readouts_doing() -> None:
    def build(n: int) -> Any:
        model = models.MLP(n)
        models.fan_in_(model)
        nn.init.normal_(model.middle.weight, std=0.2)
        return model, torch.optim.Adam(model.parameters(), lr=1e-3)

    found = audit(build, (32, 64, 128), expect="sp", seeds=1)
    assert [(finding.label, finding.quantity) for finding in found.findings] == [("middle.weight", "std")]


def test_raw_matrices_are_told_by_what_they_do() -> None:
    ends, _, _ = measured(models.ntk_mlp, 64)
    assert [(end.label, end.role) for end in ends] == [("0.w", "input"), ("2.w", "hidden"), ("4.w", "output")]


def test_an_audit_leaves_no_trace() -> None:
    """In torch's random state, and in buffers, which passes of its own would move."""
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    audit(models.sp_encoder, (32, 64), seeds=1, steps=1)
    assert torch.equal(torch.randn(3), expected)
    built = builds.call(models.mup_moe, 64, 0)
    several = [builds.call(models.mup_moe, n, 0) for n in WIDTHS]
    ends = measure.with_roles(several, layout.ends_of(several))
    passes = measure.Passes(built, [end.owner for end in ends])
    untouched = {name: t.clone() for name, t in built.model.state_dict().items()}
    first = passes.run()
    assert all(torch.equal(t, untouched[name]) for name, t in built.model.state_dict().items())
    dropping = measure.Passes(builds.call(models.sp_encoder, 64, 0), [])
    assert dropping.run().loss == dropping.run().loss, "dropout drops the same"
    for end in ends:
        passes.replay(end.owner, first.calls[end.owner], {end.tensor: torch.zeros_like(built.parameters[end.tensor])})
    assert all(torch.equal(t, untouched[name]) for name, t in built.model.state_dict().items())
    assert all(p.dtype == torch.float32 for p in built.model.parameters())


def test_batches_that_nobody_gave() -> None:
    tokens = builds.call(models.sp_gpt, 32, 0).batch
    assert (tokens.dtype, tokens.shape) == (torch.long, (4, 32))
    assert builds.call(models.mup_conv, 32, 0).batch.shape[1] == 3
    assert builds.call(models.mup_mlp_sgd, 32, 0).batch.shape == (32, 16)
