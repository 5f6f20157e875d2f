"""Losses straight from hidden states, without ever holding all logits.

Shapes: N positions (tokens or examples), D = n width, V outputs (vocabulary or classes), C rows of a chunk.

Long: the table of losses and the one pass that all of them go through are read together.
"""

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from pipeline.products import product

CHUNK_ROWS = 2048
"""At most: accumulating the readout's gradient costs little beside the matrix products of so many."""
CHUNK_LOGITS = 2**25
"""At most, on CPUs, of wide readouts: there more than 128 MB of logits make products slower, not faster."""
COLUMNS = 4096
"""Of a chunk's gradient that meet the hidden states at a time: the product copies what it takes transposed."""
EPS = 1e-5
"""Of normalized logits: LayerNorm's default."""


class LossOutput(NamedTuple):
    """Means over all positions. Only `loss` has a gradient."""

    loss: Tensor
    cross_entropy: Tensor
    """In nats, whatever `loss` is; nan where targets are no classes."""
    logit_rms: Tensor
    """Before any normalization."""
    accuracy: Tensor
    """Share of positions whose largest logit is the target's, or, of real targets, whose output has the target's sign;
    nan unless asked for."""

    def to_vector(self) -> Tensor:
        """Detached, as (4,) numbers whose mean over batches of equal size is the vector of their union."""
        return torch.stack([self.loss, self.cross_entropy, self.logit_rms.square(), self.accuracy]).detach()

    @classmethod
    def from_vector(cls, vector: Tensor) -> "LossOutput":
        loss, cross_entropy, logit_mean_square, accuracy = vector
        return cls(loss, cross_entropy, logit_mean_square.sqrt(), accuracy)


class _Chunk(NamedTuple):
    """What a loss may read of a chunk, and overwrite."""

    logits_CV: Tensor
    """Only of a loss that reads them; elsewhere their memory is that of the softmax."""
    p_CV: Tensor
    """Softmax of the logits."""
    cross_entropy: Tensor
    """Sum over rows."""
    targets_C1: Tensor


_Computed = tuple[Tensor, Callable[[], Tensor]]
"""A sum over the rows of a chunk, and what makes its gradient with respect to the logits, where one is wanted."""


def _largest_is_target(logits_CV: Tensor, targets_C1: Tensor) -> Tensor:
    return logits_CV.argmax(1, keepdim=True) == targets_C1


def _signs_agree(logits_C1: Tensor, targets_C1: Tensor) -> Tensor:
    return (logits_C1 > 0) == (targets_C1 > 0)


@dataclass(frozen=True)
class Compute:
    """What a loss computes; its entry is the one of the same name in `pipeline.entries.losses`."""

    chunk: Callable[[_Chunk], _Computed]
    per_row: Callable[[Tensor, Tensor], Tensor]
    """Of logits_NV and targets_N, (N,): the same, differentiable any number of times, from all logits at once."""
    reads_logits: bool = False
    """Whether `chunk` reads the logits, whose memory the softmax else takes."""
    classes: bool = True
    """Whether targets are class indices; else real values, of which cross-entropy says nothing."""
    correct: Callable[[Tensor, Tensor], Tensor] = _largest_is_target
    """Of logits_CV and targets_C1, (C, 1): what accuracy counts."""


def _cross_entropy(chunk: _Chunk) -> _Computed:
    return chunk.cross_entropy, lambda: _minus_one_hot(chunk.p_CV, chunk.targets_C1)


def _mse(chunk: _Chunk) -> _Computed:
    """Squared distance of the logits to the one-hot target."""
    error_CV = _minus_one_hot(chunk.logits_CV, chunk.targets_C1)
    return error_CV.square().sum(), lambda: error_CV.mul_(2)


def _mse_mean(chunk: _Chunk) -> _Computed:
    """The mean over outputs of the same (torch.nn.MSELoss); the published MLP runs' MSE."""
    outputs = chunk.logits_CV.shape[1]
    loss, gradient_CV = _mse(chunk)
    return loss / outputs, lambda: gradient_CV().div_(outputs)


def _mse_scalar(chunk: _Chunk) -> _Computed:
    """Squared distance of the one output to the target's real value; the published multi-index runs' MSE."""
    error_C1 = chunk.logits_CV - chunk.targets_C1
    return error_C1.square().sum(), lambda: error_C1.mul_(2)


def _softmax_mse(chunk: _Chunk) -> _Computed:
    """Squared distance of the softmax to the one-hot target; the published GPT runs' MSE."""
    error_CV = _minus_one_hot(chunk.p_CV.clone(), chunk.targets_C1)

    def gradient() -> Tensor:
        mean_C1 = (chunk.p_CV * error_CV).sum(1, keepdim=True)
        return error_CV.sub_(mean_C1).mul_(chunk.p_CV).mul_(2)

    return error_CV.square().sum(), gradient


def _distance(outputs_NV: Tensor, targets_N: Tensor) -> Tensor:
    return (outputs_NV - F.one_hot(targets_N, outputs_NV.shape[1])).square().sum(1)


_OF_THE_SOFTMAX = Compute(_softmax_mse, lambda logits, targets: _distance(logits.softmax(1), targets))

COMPUTE: Mapping[str, Compute] = {
    "cross_entropy": Compute(
        _cross_entropy, lambda logits, targets: F.cross_entropy(logits, targets, reduction="none")
    ),
    "mse": Compute(_mse, _distance, reads_logits=True),
    "mse_mean": Compute(
        _mse_mean, lambda logits, targets: _distance(logits, targets) / logits.shape[1], reads_logits=True
    ),
    "mse_scalar": Compute(
        _mse_scalar,
        lambda logits, targets: (logits - targets[:, None]).square().sum(1),
        reads_logits=True,
        classes=False,
        correct=_signs_agree,
    ),
    "softmax_mse": _OF_THE_SOFTMAX,
    "softmax_mse_sum": _OF_THE_SOFTMAX,  # its entry knows the scale
}


def _minus_one_hot(values_CV: Tensor, targets_C1: Tensor) -> Tensor:
    """In place."""
    return values_CV.scatter_add_(1, targets_C1, values_CV.new_full(targets_C1.shape, -1.0))


def normalized(logits_NV: Tensor) -> Tensor:
    """LayerNorm of each position's logits over the V outputs, without gains and biases (paper, F.17)."""
    return F.layer_norm(logits_NV, logits_NV.shape[1:], eps=EPS)


def _through_norm(grad_CV: Tensor, logits_CV: Tensor) -> Tensor:
    """The gradient of logits from that of `normalized` ones."""
    z_CV, deviation_C1 = normalized(logits_CV), (logits_CV.var(1, correction=0, keepdim=True) + EPS).sqrt()
    along_C1 = (grad_CV * z_CV).mean(1, keepdim=True)
    return (grad_CV - grad_CV.mean(1, keepdim=True) - z_CV * along_C1) / deviation_C1


class Gradients(NamedTuple):
    """Of the loss; None where none was wanted."""

    h_ND: Tensor | None
    weight_VD: Tensor | None
    bias_V: Tensor | None


@dataclass(frozen=True)
class Settings:
    """Of `linear_loss`, which explains them."""

    loss: str = "cross_entropy"
    scale: float = 1.0
    z_loss: float = 0.0
    chunk_rows: int | None = None
    accuracy: bool = False
    normalize: bool = False


def loss_and_gradients(
    h_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    bias_V: Tensor | None,
    settings: Settings,
    wanted: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[Tensor, Gradients]:
    """What `linear_loss` gives, as `LossOutput.to_vector` says it, and the gradients that are `wanted` of the hidden
    states, the weight and the bias: formed while a chunk's logits are at hand. Without autograd."""
    compute, (n, outputs), device = COMPUTE[settings.loss], (targets_N.numel(), len(weight_VD)), h_ND.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else weight_VD.dtype
    wide = torch.promote_types(dtype, torch.float32)
    rows_at_once = settings.chunk_rows or (
        min(CHUNK_ROWS, max(256, CHUNK_LOGITS // outputs)) if device == "cpu" else CHUNK_ROWS
    )
    none = h_ND.new_full((), math.nan, dtype=wide)
    sums: list[Tensor] = []
    grad_h: list[Tensor] = []
    grad_weight = grad_bias = None

    with torch.autocast(device, enabled=False) if autocast else contextlib.nullcontext():
        weight = weight_VD.to(dtype)
        for start in range(0, n, rows_at_once):
            rows = slice(start, start + rows_at_once)
            h_CD, targets_C = (h_ND, targets_N) if n <= rows_at_once else (h_ND[rows], targets_N[rows])
            h_CD, targets_C1 = h_CD.to(dtype), targets_C.unsqueeze(1)
            logits_CV = product(h_CD, weight).to(wide)
            if bias_V is not None:
                logits_CV += bias_V
            squares = torch.linalg.vector_norm(logits_CV).square()
            raw_CV, logits_CV = logits_CV, normalized(logits_CV) if settings.normalize else logits_CV
            correct = compute.correct(logits_CV, targets_C1).sum() if settings.accuracy else none
            # log-sum-exp from the softmax, which is made in the logits' own memory where the loss can spare them
            target_C1 = logits_CV.gather(1, targets_C1) if compute.classes else none
            maximum_C1 = logits_CV.amax(1, keepdim=True)
            p_CV = torch.softmax(logits_CV, 1, out=None if compute.reads_logits else logits_CV)
            log_z_C1 = maximum_C1 - p_CV.amax(1, keepdim=True).log()
            cross_entropy = (log_z_C1 - target_C1).sum()
            z_gradient = 2 * settings.z_loss * log_z_C1 * p_CV if settings.z_loss and any(wanted) else None
            value, gradient = compute.chunk(_Chunk(logits_CV, p_CV, cross_entropy, targets_C1))
            if settings.scale != 1:
                value = settings.scale * value
            if settings.z_loss:
                value = value + settings.z_loss * log_z_C1.square().sum()
            sums.append(torch.stack([value, cross_entropy, squares / outputs, correct]))
            if not any(wanted):
                continue
            grad_CV = gradient()
            if settings.scale != 1:
                grad_CV *= settings.scale
            if z_gradient is not None:
                grad_CV += z_gradient
            if settings.normalize:
                grad_CV = _through_norm(grad_CV, raw_CV)
            if wanted[2] and bias_V is not None:
                grad_bias = _added(grad_bias, grad_CV.sum(0).div_(n))
            grad_CV = grad_CV.to(dtype)
            if wanted[0]:
                grad_h.append(product(grad_CV, weight.T).to(h_ND.dtype).div_(n))
            if wanted[1]:
                grad_weight = _of_weight(grad_weight, grad_CV, h_CD, weight_VD)

    if grad_weight is not None:
        grad_weight /= n
    of_h = None if not wanted[0] else grad_h[0] if len(grad_h) == 1 else torch.cat(grad_h)
    return sum(sums[1:], sums[0]) / n, Gradients(of_h, grad_weight, grad_bias)


def _added(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)


def _of_weight(total: Tensor | None, grad_CV: Tensor, h_CD: Tensor, weight_VD: Tensor) -> Tensor:
    """``total + grad_CV.T @ h_CD``, added up in the weight's precision, and in place."""
    outputs = grad_CV.shape[1]
    if outputs <= COLUMNS:
        return _added(total, product(grad_CV.T, h_CD.T).to(weight_VD.dtype))
    total = torch.zeros_like(weight_VD) if total is None else total
    for first in range(0, outputs, COLUMNS):
        columns = slice(first, first + COLUMNS)
        total[columns] += product(grad_CV[:, columns].T, h_CD.T)
    return total


class _LinearLoss(torch.autograd.Function):
    """Gradients are formed in the forward pass; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, h_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, settings: Settings
    ) -> tuple[Tensor, Tensor]:
        wanted = ctx.needs_input_grad[:3]
        vector, ctx.gradients = loss_and_gradients(h_ND, weight_VD, targets_N, bias_V, settings, wanted)
        ctx.mark_non_differentiable(vector)
        return vector[0].clone(), vector

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the gradient of linear_loss was asked for a second time: compute the loss anew")
        gradients, ctx.gradients = ctx.gradients, None
        if grad_loss.device.type != "cpu" or grad_loss != 1:  # elsewhere asking would make the device wait
            gradients = (None if grad is None else grad.mul_(grad_loss.to(grad.dtype)) for grad in gradients)
        return *gradients, None, None


def linear_loss(
    h_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    bias_V: Tensor | None = None,
    *,
    loss: str = "cross_entropy",
    scale: float = 1.0,
    z_loss: float = 0.0,
    chunk_rows: int | None = None,
    accuracy: bool = False,
    normalize: bool = False,
) -> LossOutput:
    """Mean loss of the logits ``h_ND @ weight_VD.T + bias_V`` against class indices, `chunk_rows` x V logits at a time.

    `cross_entropy` is F.cross_entropy; `mse` and `softmax_mse` are squared distances to the one-hot target summed over
    the V outputs, of the logits and of their softmax, `mse_mean` their mean over the outputs; `mse_scalar` holds one
    output against real targets_N. `scale` multiplies it. `z_loss` times the squared log-partition function is added
    (Chowdhery et al. 2023). With `normalize` all this is of `normalized` logits. Under autocast, matrix products run in
    its dtype, all else in fp32. Differentiable once. Raises `KeyError` for an unknown loss.
    """
    settings = Settings(loss, scale, z_loss, chunk_rows, accuracy, normalize)
    if not torch.is_grad_enabled():
        return LossOutput.from_vector(
            loss_and_gradients(h_ND, weight_VD, targets_N, bias_V, settings, (False, False, False))[0]
        )
    value, vector = _LinearLoss.apply(h_ND, weight_VD, bias_V, targets_N, settings)  # type: ignore[no-untyped-call]
    return LossOutput.from_vector(vector)._replace(loss=value)
