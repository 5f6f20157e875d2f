"""Builds that cannot be audited: one clear line each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.audit.audit import audit
from pipeline.audit.builds import find
from pipeline.errors import RequestError
from tests.audit.models import GPT, MLP


def adam(model: nn.Module, **options: Any) -> Any:
    return model, torch.optim.Adam(model.parameters(), lr=1e-3, **options)


class Odd(nn.Module):
    def __init__(self, n: int, inside: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.first, self.w, self.last = nn.Linear(8, n), nn.Parameter(torch.randn(*shape)), nn.Linear(n, inside)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x)) + self.w.sum()


class Two(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.first = nn.Linear(8, n)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.first(x) * mask


def _part(n: int) -> Any:
    model = MLP(n)
    return model, torch.optim.Adam(model.middle.parameters(), lr=1e-3)


def _foreign(n: int) -> Any:
    return MLP(n), torch.optim.Adam([*MLP(n).parameters()], lr=1e-3)


def _more(n: int) -> Any:
    model = MLP(n)
    return model, torch.optim.Adam([*model.parameters(), nn.Parameter(torch.zeros(3))], lr=1e-3)


def _raises(n: int) -> Any:
    raise KeyError("heads")


def _closure(n: int) -> Any:
    model = MLP(n)
    return model, torch.optim.LBFGS(model.parameters())


def _warm(n: int) -> Any:
    model, optimizer = adam(MLP(n))
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
    return model, optimizer


WRONG: dict[str, tuple[Callable[[int], Any], str]] = {
    "ignores the width": (lambda n: adam(MLP(32)), "build ignores width: every tensor has one shape at 16, 32"),
    "depth goes with it": (lambda n: adam(GPT(32, layers=n // 16)), "shapes do not scale: .* let the width change sizes alone"),
    "no power of it": (lambda n: adam(Odd(n, 4, (n * n, 2))), r"shapes do not scale: w is 256x2, 1024x2 at widths 16, 32"),
    "shrinks": (lambda n: adam(Odd(n, 4, (64 - n, 2))), "shapes do not scale: w is 48x2, 32x2"),
    "misses parameters": (_part, "the optimizer misses first.weight, first.bias, last.weight, last.bias: give it every"),
    "another model's": (_foreign, "the optimizer misses first.weight, .* and 2 more"),
    "more than the model's": (_more, "the optimizer holds 1 tensors that the model has not"),
    "raises": (_raises, r"build\(16\) failed: KeyError: 'heads'"),
    "gives a model alone": (lambda n: MLP(n), "expected a tuple, or a dict, of model and optimizer"),
    "no module": (lambda n: (3, None), "the model is a int, not an nn.Module"),
    "no optimizer": (lambda n: (MLP(n), "adam"), "the optimizer is a str, not one of torch's"),
    "unknown key": (lambda n: {"model": MLP(n), "optim": 1}, "gave optim: expected"),
    "wants a batch": (lambda n: adam(Two(n)), r"cannot tell what Two.forward\(x, mask\) takes: let build return a batch"),
    "wrong batch": (lambda n: (*adam(MLP(n)), torch.randn(4, 9)), "width 16: the model does not run on its batch"),
    "loss of many": (lambda n: (*adam(MLP(n)), lambda m, b: m(b), torch.randn(4, 16)), "not a tensor of one number"),
    "loss without the model": (lambda n: (*adam(MLP(n)), lambda m, b: m.last(b).mean(), torch.randn(4, n)), "the loss does not call the model"),
    "a closure": (_closure, "LBFGS made no step at width 16"),
    "a warm-up": (_warm, "moves nothing: is its learning rate 0"),
    "frozen whole": (lambda n: adam(MLP(n).requires_grad_(False)), "nothing to train"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_builds_that_cannot_be_audited(case: str) -> None:
    build, said = WRONG[case]
    with pytest.raises(RequestError, match=said) as error:
        audit(build, (16, 32), seeds=1, steps=1)
    assert "\n" not in str(error.value)


def test_too_few_widths() -> None:
    with pytest.raises(RequestError, match=r"one width .64. shows no scaling"):
        audit(lambda n: adam(MLP(n)), (64, 64))
    with pytest.raises(RequestError, match="did you mean 'mup'"):
        audit(lambda n: adam(MLP(n)), (64, 128), expect="mupp")


def test_functions_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stranger.py").write_text("import torch\n\ndef build(n):\n    return n\n\nwidth = 3\n")
    (tmp_path / "broken.py").write_text("import no_such_library\n")
    (tmp_path / "worse.py").write_text("1 / 0\n")
    assert find("stranger:build")(3) == 3
    assert find(f"{tmp_path}/stranger.py:build")(4) == 4
    for spec, said in {
        "stranger": "expected module:function",
        "stranger:": "expected module:function",
        "strange:build": "there is no module 'strange' here or installed",
        "stranger:make": "stranger has no make: it has build",
        "stranger:width": "width is a int, not a function",
        "broken:build": "No module named 'no_such_library'",
        "worse:build": "importing worse failed: ZeroDivisionError",
        "none.py:build": "none.py: no such file",
    }.items():
        with pytest.raises(RequestError, match=said):
            find(spec)
