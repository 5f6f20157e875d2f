"""Sharpness and NTK against explicit Hessians and Jacobians."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.config import ModelConfig
from pipeline.diagnostics import sharpness
from pipeline.diagnostics.lanczos import largest_eigenvalues
from pipeline.diagnostics.sharpness import Sharpness, plain_loss
from pipeline.losses import COMPUTE, linear_loss
from pipeline.models import gpt, mlp
from pipeline.models.roles import Readout

LOSSES = tuple(COMPUTE)


def randomize_(model: nn.Module, std: float) -> None:
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # gains stay near 1, nothing stays at 0
            mean = float(parameter.ndim == 1)
            parameter.copy_(mean + std * torch.randn(parameter.shape, generator=g, dtype=parameter.dtype))


def small_mlp(dtype: torch.dtype = torch.float64, activation: str = "relu") -> tuple[nn.Module, Tensor, Tensor]:
    model = mlp.build(ModelConfig(kind="mlp", n_layer=3, activation=activation), 8, 6, 4).to(dtype)  # type: ignore[arg-type]
    randomize_(model, 0.5)
    g = torch.Generator().manual_seed(1)
    return model, torch.randn(12, 6, generator=g, dtype=dtype), torch.randint(0, 4, (12,), generator=g)


def small_gpt(width: int = 8, dtype: torch.dtype = torch.float64, **settings: Any) -> tuple[nn.Module, Tensor, Tensor]:
    vocabulary = 50 if width > 8 else 11
    fields = {"n_layer": 2, "head_size": 4, "vocab_size": vocabulary, "qk_norm": True} | settings
    model = gpt.build(ModelConfig(**fields), width, seq_len=6).to(dtype)
    randomize_(model, 0.3)
    g = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, vocabulary, (4, 7), generator=g)
    return model, tokens[:, :-1].contiguous(), tokens[:, 1:].flatten()


def explicit_logits(model: nn.Module) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """Logits (N, V) as a function of one vector of the trained weights, and that vector."""
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    name_of = {id(p): name for name, p in model.named_parameters()}
    weight, bias = name_of[id(model.readout.weight)], name_of.get(id(model.readout.bias))
    fixed = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}

    def logits(vector: Tensor, inputs: Tensor) -> Tensor:
        tensors, offset = dict(fixed), 0
        for name, p in trained.items():
            tensors[name] = vector[offset : offset + p.numel()].view_as(p)
            offset += p.numel()
        h = functional_call(model, tensors, (inputs,))
        f = (h @ tensors[weight].T + (0 if bias is None else tensors[bias])).flatten(0, -2)
        if getattr(model.readout, "normalize", False):
            f = f - f.mean(1, keepdim=True)
            f = f / (f.square().mean(1, keepdim=True) + 1e-5).sqrt()
        return f

    return logits, torch.cat([p.flatten() for p in trained.values()])


def explicit_hessian(
    model: nn.Module, inputs: Tensor, targets: Tensor, loss: str = "cross_entropy", z: float = 0.0
) -> Tensor:
    logits, weights = explicit_logits(model)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        vector = weights.clone().requires_grad_()
        one_hot = F.one_hot(targets, logits(vector, inputs).shape[1]).to(vector.dtype)
        outputs = logits(vector, inputs)
        value = {
            "cross_entropy": lambda: -(one_hot * outputs.log_softmax(1)).sum() / len(targets),
            "mse": lambda: (outputs - one_hot).pow(2).sum() / len(targets),
            "mse_mean": lambda: F.mse_loss(outputs, one_hot),
            "mse_scalar": lambda: (outputs - targets[:, None]).pow(2).sum() / len(targets),
            "softmax_mse": lambda: (outputs.softmax(1) - one_hot).pow(2).sum() / len(targets),
            "softmax_mse_sum": lambda: (outputs.softmax(1) - one_hot).pow(2).sum() / len(targets),
        }[loss]() + z * outputs.logsumexp(1).pow(2).mean()
        (gradient,) = torch.autograd.grad(value, vector, create_graph=True)
        identity = torch.eye(len(vector), dtype=vector.dtype)
        rows = [
            torch.autograd.grad(gradient, vector, part, retain_graph=True, is_grads_batched=True)[0]
            for part in identity.split(256)
        ]
    return torch.cat(rows)


def eigenvalues(matrix: Tensor) -> Tensor:
    return torch.linalg.eigvalsh((matrix + matrix.T) / 2).flip(0)


def test_the_reference_is_torchs_hessian() -> None:
    model, inputs, targets = small_mlp()
    logits, weights = explicit_logits(model)
    theirs = torch.autograd.functional.hessian(lambda w: F.cross_entropy(logits(w, inputs), targets), weights)
    torch.testing.assert_close(explicit_hessian(model, inputs, targets), theirs)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("z_loss", [0.0, 0.2])
def test_plain_loss_equals_linear_loss(loss: str, z_loss: float) -> None:
    g = torch.Generator().manual_seed(0)
    h, weight = torch.randn(30, 5, generator=g).double(), torch.randn(7, 5, generator=g).double()
    targets = torch.randint(0, 7, (30,), generator=g)
    parameters = (h.requires_grad_(), weight.requires_grad_())
    ours = plain_loss(F.linear(h, weight), targets, loss, z_loss)
    theirs = linear_loss(h, weight, targets, loss=loss, z_loss=z_loss).loss
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), strict=True):
        torch.testing.assert_close(a, b)
    small = parameters[0].detach()[:3].requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda x: plain_loss(F.linear(x, weight.detach()), targets[:3], loss, z_loss), (small,)
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("chunk_positions", [5, 1024])
@pytest.mark.parametrize("z_loss", [0.0, 0.2])
def test_mlp_equals_explicit_hessian(loss: str, chunk_positions: int, z_loss: float) -> None:
    model, inputs, targets = small_mlp()
    expected = eigenvalues(explicit_hessian(model, inputs, targets, loss, z_loss))
    probe = Sharpness(
        model, inputs, targets, loss, eigenvalues=3, iterations=20, z_loss=z_loss, chunk_positions=chunk_positions
    )
    measured = probe.measure()
    assert list(measured) == ["sharpness/1", "sharpness/2", "sharpness/3"]
    assert list(measured.values()) == pytest.approx(expected[:3].tolist(), rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("train", ["all", "readout"])
def test_normalized_logits_and_random_features(loss: str, train: Any) -> None:
    settings = ModelConfig(kind="mlp", n_layer=3, norm="rmsnorm", bias=True, logit_norm="layernorm", train=train)
    model = mlp.build(settings, 4, 3, 5).double()
    g = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64)
    inputs, targets = torch.randn(6, 3, generator=g, dtype=torch.float64), torch.arange(6) % 5
    measured = Sharpness(model, inputs, targets, loss, eigenvalues=2, iterations=30, ntk=True).measure()
    wanted = eigenvalues(explicit_hessian(model, inputs, targets, loss))
    assert [measured["sharpness/1"], measured["sharpness/2"]] == pytest.approx(wanted[:2].tolist(), rel=1e-6)


def test_a_scaled_loss_has_a_scaled_hessian() -> None:
    model, inputs, targets = small_mlp()
    plain, scaled = (Sharpness(model, inputs, targets, "softmax_mse", scale=s).measure() for s in (1.0, 12.0))
    assert scaled["sharpness/1"] == pytest.approx(12 * plain["sharpness/1"], rel=1e-6)


GPTS: list[dict[str, Any]] = [
    {},
    {"train_norms": False},
    {"qk_norm": False, "name": "Llama-2-7b-hf", "kv_heads": 1},  # RMSNorm, gated MLP, grouped queries
]


@pytest.mark.parametrize("settings", [GPTS[0], *(pytest.param(s, marks=pytest.mark.slow) for s in GPTS[1:])])
def test_gpt_equals_explicit_hessian_and_ntk(settings: dict[str, Any]) -> None:
    """Through rope, normalization of queries and keys, softmax, GELU or SiLU."""
    model, inputs, targets = small_gpt(**settings)
    hessian = explicit_hessian(model, inputs, targets)
    probe = Sharpness(model, inputs, targets, "cross_entropy", eigenvalues=2, iterations=20, ntk=True)
    measured = probe.measure()
    assert [measured["sharpness/1"], measured["sharpness/2"]] == pytest.approx(
        eigenvalues(hessian)[:2].tolist(), rel=1e-6
    )
    logits, weights = explicit_logits(model)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        jacobian = torch.func.jacrev(lambda w: logits(w, inputs).flatten())(weights)
    gram = jacobian @ jacobian.T / len(targets)
    assert measured["ntk/1"] == pytest.approx(eigenvalues(gram)[0].item(), rel=1e-6)


@pytest.mark.parametrize("loss", ["cross_entropy", *(pytest.param(s, marks=pytest.mark.slow) for s in LOSSES[1:])])
def test_gpt_of_width_32_equals_arpack(loss: str) -> None:
    model, inputs, targets = small_gpt(32, head_size=8)
    logits, weights = explicit_logits(model)
    vector = weights.requires_grad_()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        value = linear_equivalent(loss, logits(vector, inputs), targets)
        (gradient,) = torch.autograd.grad(value, vector, create_graph=True)

    def product(v: np.ndarray) -> np.ndarray:
        along = torch.from_numpy(np.ascontiguousarray(v).reshape(-1))
        return torch.autograd.grad(gradient, vector, along, retain_graph=True)[0].numpy()

    operator = LinearOperator((len(vector),) * 2, matvec=product, dtype=np.float64)
    expected = eigsh(operator, k=2, which="LA", tol=1e-9, return_eigenvectors=False, v0=np.ones(len(vector)))
    measured = Sharpness(model, inputs, targets, loss, eigenvalues=2, iterations=15).measure()
    assert list(measured.values()) == pytest.approx(sorted(expected, reverse=True), rel=1e-3)
    fp32 = Sharpness(model.float(), inputs, targets, loss, eigenvalues=2, iterations=15).measure()
    assert list(fp32.values()) == pytest.approx(sorted(expected, reverse=True), rel=1e-3)


def linear_equivalent(loss: str, logits: Tensor, targets: Tensor) -> Tensor:
    """The loss from its definition."""
    one_hot = F.one_hot(targets, logits.shape[1])
    if loss == "cross_entropy":
        return -(one_hot * logits.log_softmax(1)).sum() / len(targets)
    if loss == "mse_mean":
        return (logits - one_hot).pow(2).mean()
    if loss == "mse_scalar":
        return (logits - targets[:, None]).pow(2).sum() / len(targets)
    return ((logits if loss == "mse" else logits.softmax(1)) - one_hot).pow(2).sum() / len(targets)


def test_a_readout_with_bias_and_vectors_as_inputs_of_another_model() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Dropout(0.5), nn.BatchNorm1d(7))
            self.unused = nn.Linear(3, 3)
            self.readout = Readout(7, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    model = Other().double().train()
    randomize_(model, 0.5)
    g = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(9, 5, generator=g).double(), torch.randint(0, 3, (9,), generator=g)
    expected = eigenvalues(explicit_hessian(copy.deepcopy(model).eval(), inputs, targets, "mse"))
    measured = Sharpness(model, inputs.float().double(), targets, "mse", iterations=60).measure()
    assert measured["sharpness/1"] == pytest.approx(expected[0].item(), rel=1e-6)
    assert all(module.training for module in model.modules())


def test_a_linear_function_of_the_weights_has_the_hessian_of_its_loss() -> None:
    model, inputs, targets = small_mlp()
    for layer in model.layers:
        layer.weight.requires_grad_(False)
    h = model(inputs).detach()
    expected = torch.linalg.eigvalsh(2 * h.T @ h / len(h))[-1].item()
    probe = Sharpness(model, inputs, targets, "mse", ntk=True)
    assert probe.measure() == pytest.approx({"sharpness/1": expected, "ntk/1": expected / 2})


def test_only_trained_weights_count() -> None:
    model, inputs, targets = small_mlp()
    model.layers[0].weight.requires_grad_(False)
    expected = eigenvalues(explicit_hessian(model, inputs, targets))[0].item()
    measured = Sharpness(model, inputs, targets, "cross_entropy", iterations=20).measure()
    assert measured["sharpness/1"] == pytest.approx(expected, rel=1e-6)


def test_the_largest_is_not_the_largest_in_magnitude() -> None:
    """At a maximum of the loss in most directions."""
    model, inputs, targets = small_mlp(activation="linear")
    with torch.no_grad():
        model.readout.weight.mul_(-3)
    values = eigenvalues(explicit_hessian(model, inputs, targets, "softmax_mse"))
    assert -values[-1] > 1.4 * values[0]
    measured = Sharpness(model, inputs, targets, "softmax_mse", eigenvalues=2, iterations=60).measure()
    assert list(measured.values()) == pytest.approx(values[:2].tolist(), rel=1e-5)


def test_warm_start_after_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, targets = small_gpt()
    probe = Sharpness(model, inputs, targets, "cross_entropy", iterations=15, ntk=True)
    probe.measure()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    expected = eigenvalues(explicit_hessian(model, inputs, targets))[0].item()
    monkeypatch.setattr(sharpness, "COLD", 1)
    few = {"iterations": 3, "ntk": True}
    cold = Sharpness(model, inputs, targets, "cross_entropy", **few)
    warm = Sharpness(model, inputs, targets, "cross_entropy", **few)
    warm.load_state_dict(probe.state_dict())
    assert abs(cold.measure()["sharpness/1"] / expected - 1) > 1e-2
    measured = warm.measure()
    assert measured["sharpness/1"] == pytest.approx(expected, rel=1e-3)
    assert measured["ntk/1"] == pytest.approx(
        Sharpness(model, inputs, targets, "cross_entropy", iterations=15, ntk=True).measure()["ntk/1"], rel=1e-3
    )
    again = warm.measure()
    assert abs(again["sharpness/1"] / expected - 1) < 1e-4  # it goes on from where it was


def test_a_start_that_does_not_fit_or_is_the_wrong_eigenvector() -> None:
    model, inputs, targets = small_mlp()
    values, vectors = torch.linalg.eigh(explicit_hessian(model, inputs, targets))
    for start in (torch.ones(3), vectors[:, -2], vectors[:, 0], torch.zeros(len(values)), values * torch.nan):
        probe = Sharpness(model, inputs, targets, "cross_entropy", iterations=30)
        probe.load_state_dict({"sharpness": start})
        assert probe.measure()["sharpness/1"] == pytest.approx(values[-1].item(), rel=1e-4)


@pytest.mark.parametrize("ranks", [2])
def test_data_parallel_ranks(ranks: int) -> None:
    """All ranks' products are taken at once, as a reduction between processes would."""
    model, inputs, targets = small_gpt()
    whole = Sharpness(model, inputs, targets, "cross_entropy", eigenvalues=2, iterations=4, ntk=True).measure()
    per_row = targets.view(4, -1)
    shares = [
        Sharpness(model, inputs[r::ranks], per_row[r::ranks].flatten(), "cross_entropy", ntk=True)
        for r in range(1, ranks)
    ]
    kernels = {"sharpness": sharpness._Hessian, "ntk": sharpness._Kernel}
    asked: list[Tensor] = []

    def reduce(mine: Tensor) -> Tensor:
        name, vector = current[0], asked[-1]
        others = []
        for share in shares:
            others.append(kernels[name](share, sharpness._Weights(model))(vector))
        return sum(others, mine) / ranks

    first = Sharpness(
        model, inputs[::ranks], per_row[::ranks].flatten(), "cross_entropy", eigenvalues=2, iterations=4, ntk=True,
        reduce=reduce,
    )  # fmt: skip
    current = [""]
    largest = first._largest

    def spied(name: str, weights: Any, product: Callable[[Tensor], Tensor], count: int) -> dict[str, float]:
        current[0] = name

        def remembered(vector: Tensor) -> Tensor:
            asked.append(vector)
            return product(vector)

        return largest(name, weights, remembered, count)

    first._largest = spied  # type: ignore[method-assign]
    assert first.measure() == pytest.approx(whole, rel=1e-8)


def test_nothing_is_disturbed() -> None:
    model, inputs, targets = small_gpt(dtype=torch.float32)
    model.train()
    model.transformer.h[0].eval()
    model(inputs).square().sum().backward()
    before = copy.deepcopy(model.state_dict())
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    precision = torch.get_float32_matmul_precision()
    fired = []
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: fired.append(p))
    with torch.no_grad():
        expected = Sharpness(model, inputs, targets, "cross_entropy", ntk=True).measure()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Sharpness(model, inputs, targets, "cross_entropy", ntk=True).measure() == expected
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    for name, parameter in model.named_parameters():
        old = gradients[name]
        assert (parameter.grad is None) if old is None else torch.equal(parameter.grad, old)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.get_float32_matmul_precision() == precision
    assert not fired
    assert torch.is_grad_enabled()


def test_low_precision_models_are_measured_in_fp32() -> None:
    model, inputs, targets = small_gpt(dtype=torch.bfloat16)
    coarse = Sharpness(model, inputs, targets, "cross_entropy", iterations=30).measure()
    exact = Sharpness(model.float(), inputs, targets, "cross_entropy", iterations=30).measure()
    assert coarse == pytest.approx(exact, rel=1e-4)


def test_a_compiled_model_is_measured_without_its_compiled_code() -> None:
    model, inputs, targets = small_mlp()
    expected = Sharpness(model, inputs, targets, "cross_entropy", ntk=True).measure()
    model.compile(backend="eager")
    assert Sharpness(model, inputs, targets, "cross_entropy", ntk=True).measure() == pytest.approx(expected)


def test_counts_of_products_and_passes() -> None:
    model, inputs, targets = small_mlp()
    passes: list[nn.Module] = []
    products: list[Tensor] = []
    model.register_forward_hook(lambda *_: passes.append(model))

    def reduce(vector: Tensor) -> Tensor:
        products.append(vector)
        return vector

    def count(probe: Sharpness) -> tuple[int, int]:
        products.clear()
        passes.clear()
        probe.measure()
        return len(products), len(passes)

    one = Sharpness(model, inputs, targets, "cross_entropy", iterations=5, reduce=reduce)
    assert [count(one), count(one)] == [(15, 1), (5, 1)]  # the first takes three times as many
    many = Sharpness(model, inputs, targets, "cross_entropy", iterations=5, reduce=reduce, chunk_positions=5)
    assert [count(many), count(many)] == [(15, 3 * 15), (5, 3 * 5)]


def test_divergence() -> None:
    model, inputs, targets = small_mlp()
    probe = Sharpness(model, inputs, targets, "cross_entropy", eigenvalues=2, ntk=True)
    good = probe.measure()
    weight = model.readout.weight.detach().clone()
    with torch.no_grad():
        model.readout.weight.fill_(math.nan)
    assert all(math.isnan(value) for value in probe.measure().values())
    with torch.no_grad():
        model.readout.weight.copy_(weight)
    assert probe.measure() == pytest.approx(good, rel=1e-2)


def test_lanczos_on_matrices() -> None:
    g = torch.Generator().manual_seed(0)
    for size, spectrum in {
        1: torch.tensor([2.0]),
        3: torch.tensor([1.0, 1.0, -5.0]),
        40: torch.cat([torch.tensor([3.0, 3.0, 2.0]), -torch.arange(37.0)]),
        50: torch.zeros(50),
    }.items():
        basis = torch.linalg.qr(torch.randn(size, size, generator=g).double())[0]
        matrix = (basis * spectrum.double()) @ basis.T
        start = torch.ones(size).double()
        values, vector = largest_eigenvalues(lambda v, m=matrix: m @ v, start, count=2, iterations=45)
        assert values == pytest.approx(spectrum.double().sort(descending=True)[0][:2].tolist(), abs=1e-8)
        assert vector.shape == (size,)
    values, _ = largest_eigenvalues(lambda v: -v, torch.ones(5), count=2, iterations=1)
    assert values == pytest.approx([-1])


def test_lanczos_starts_near_the_wrong_eigenvector() -> None:
    """Nothing of the first eigenvector is in the start, nor does the start span an invariant subspace."""
    spectrum = torch.cat([torch.tensor([2.0, 1.5]), torch.linspace(0, 1, 48)]).double()
    start = torch.full((50,), 0.01).double()
    start[:2] = torch.tensor([0.0, 1.0])
    values, _ = largest_eigenvalues(lambda v: spectrum * v, start, count=1, iterations=12)
    assert values == pytest.approx([2], rel=1e-3)


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for leaf in torch.utils._pytree.tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.elements = max(self.elements, leaf.numel())
        return result


@pytest.mark.slow
def test_memory_is_that_of_one_row() -> None:
    """No tensor grows with the number of rows."""
    model, inputs, targets = small_gpt(dtype=torch.float32)
    largest = {}
    for copies in (1, 3):
        rows, classes = inputs.repeat(copies, 1), targets.repeat(copies)
        probe = Sharpness(model, rows, classes, "cross_entropy", iterations=1, ntk=True, chunk_positions=1)
        with Largest() as seen:
            probe.measure()
        largest[copies] = seen.elements
    assert largest[1] == largest[3]
