"""Cross-entropy straight from hidden states, without ever holding all logits.

Shapes: N token positions, D = n width, V vocabulary, C rows of a chunk.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Large enough that accumulating the readout's gradient costs little beside its matrix products, small enough that a
# chunk of logits stays far below the model's own activations (50 304 columns: 0.4 GB).
CHUNK_ROWS = 2048


class _LinearCrossEntropy(torch.autograd.Function):
    """Gradients are formed in the forward pass, while a chunk's logits are at hand; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, h_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, chunk_rows: int
    ) -> tuple[Tensor, Tensor]:
        need_h, need_weight, need_bias = ctx.needs_input_grad[:3]
        device = h_ND.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_VD.dtype
        total = targets_N.numel()
        loss = h_ND.new_zeros((), dtype=torch.promote_types(dtype, torch.float32))
        squares = torch.zeros_like(loss)
        grad_h = torch.empty_like(h_ND) if need_h else None
        grad_weight = torch.zeros_like(weight_VD) if need_weight else None
        grad_bias = torch.zeros_like(bias_V) if need_bias and bias_V is not None else None

        with torch.autocast(device, enabled=False):
            weight = weight_VD.to(dtype)
            for start in range(0, total, chunk_rows):
                rows = slice(start, start + chunk_rows)
                h_CD, targets_C1 = h_ND[rows].to(dtype), targets_N[rows, None]
                logits_CV = (h_CD @ weight.T).to(loss.dtype)
                if bias_V is not None:
                    logits_CV += bias_V
                squares += torch.linalg.vector_norm(logits_CV).square()
                log_z_C1 = logits_CV.logsumexp(1, keepdim=True)
                loss += (log_z_C1 - logits_CV.gather(1, targets_C1)).sum()
                if not (need_h or need_weight or need_bias):
                    continue
                grad_CV = logits_CV.sub_(log_z_C1).exp_()  # softmax - one-hot, in the logits' own memory
                grad_CV.scatter_add_(1, targets_C1, torch.full_like(log_z_C1, -1.0))
                grad_CV /= total
                if grad_bias is not None:
                    grad_bias += grad_CV.sum(0)
                grad = grad_CV.to(dtype)
                if grad_h is not None:
                    grad_h[rows] = grad @ weight
                if grad_weight is not None:
                    grad_weight += grad.T @ h_CD

        ctx.save_for_backward(grad_h, grad_weight, grad_bias)
        logit_rms = (squares / (total * weight_VD.shape[0])).sqrt()
        ctx.mark_non_differentiable(logit_rms)
        return loss / total, logit_rms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if grad is None else grad * grad_loss.to(grad.dtype) for grad in ctx.saved_tensors]
        return *scaled, None, None


def linear_cross_entropy(
    h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, bias_V: Tensor | None = None, chunk_rows: int = CHUNK_ROWS
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy (nats) of the logits ``h_ND @ weight_VD.T + bias_V``, and the logits' RMS (no gradient).

    Equals ``F.cross_entropy(F.linear(h_ND, weight_VD, bias_V), targets_N)`` while holding `chunk_rows` x V logits at a
    time. Under autocast, matrix products run in its dtype and the log-sum-exp in fp32. Differentiable once.
    """
    result: tuple[Tensor, Tensor] = _LinearCrossEntropy.apply(h_ND, weight_VD, bias_V, targets_N, chunk_rows)  # type: ignore[no-untyped-call]
    return result
