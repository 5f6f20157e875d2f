"""Logit metrics: size, saturation and calibration, which tell the regimes of training apart at the softmax.

Under controlled divergence logits grow with width while activations, gradients and the loss do not (paper,
Definition 1): the softmax saturates, its entropy falls, and the model becomes more confident than it is accurate.

Shapes: N positions (tokens or examples), D = n width, V outputs (vocabulary or classes), C rows of a chunk, K sums.
"""

import torch
from torch import Tensor

from pipeline.losses import normalized

BINS = 15  # of the confidence, of equal width, as in Guo et al. 2017
_MEANS = ("probe_loss", "logit_mean_square", "max_probability", "entropy", "accuracy")


@torch.no_grad()
def logit_sums(
    h_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    bias_V: Tensor | None = None,
    *,
    normalize: bool = False,
    chunk_rows: int = 2048,
) -> Tensor:
    """Sums over positions of what `logit_metrics` needs: (K,) in fp64, additive over batches and ranks.

    The logits ``h_ND @ weight_VD.T + bias_V`` are formed `chunk_rows` x V at a time, in the inputs' dtype or fp32 if
    that is lower, whatever autocast says. In order: count, cross-entropy in nats, mean square of a position's logits,
    largest probability, entropy in nats, correct ones; then per confidence bin the count, the confidence and the
    correct ones. With `normalize` all but their mean square is of `losses.normalized` logits.
    """
    dtype = torch.promote_types(torch.promote_types(h_ND.dtype, weight_VD.dtype), torch.float32)
    sums = h_ND.new_zeros(1 + len(_MEANS) + 3 * BINS, dtype=torch.float64)
    n_means = len(_MEANS) + 1
    with torch.autocast(h_ND.device.type, enabled=False):
        weight = weight_VD.to(dtype)
        bias = None if bias_V is None else bias_V.to(dtype)
        for start in range(0, targets_N.numel(), chunk_rows):
            rows = slice(start, start + chunk_rows)
            logits_CV = h_ND[rows].to(dtype) @ weight.T
            if bias is not None:
                logits_CV += bias
            square_C = torch.linalg.vector_norm(logits_CV, dim=1).square() / weight.shape[0]
            logits_CV = normalized(logits_CV) if normalize else logits_CV
            maximum_C1, best_C1 = logits_CV.max(1, keepdim=True)
            targets_C1 = targets_N[rows, None]
            logits_CV -= maximum_C1
            target_C = logits_CV.gather(1, targets_C1)[:, 0]
            p_CV = logits_CV.exp()
            normalizer_C1 = p_CV.sum(1, keepdim=True)
            p_CV /= normalizer_C1
            log_z_C = normalizer_C1.log()[:, 0]
            entropy_C = log_z_C - p_CV.mul_(logits_CV).sum(1)
            confidence_C = 1 / normalizer_C1[:, 0]
            correct_C = (best_C1 == targets_C1)[:, 0].to(dtype)
            per_position = torch.stack((log_z_C - target_C, square_C, confidence_C, entropy_C, correct_C)).double()
            sums[0] += targets_C1.numel()
            sums[1:n_means] += per_position.sum(1)
            counted = torch.stack((torch.ones_like(confidence_C), confidence_C, correct_C), dim=1).double()
            # bin i holds (i / BINS, (i + 1) / BINS]
            bin_C = (confidence_C * BINS).ceil().long().sub_(1).clamp_(0, BINS - 1)
            sums[n_means:].view(BINS, 3).index_add_(0, bin_C, counted)
    return sums


def logit_metrics(sums: Tensor) -> dict[str, float]:
    """Means over all positions: `probe_loss` (cross-entropy), `logit_rms`, `max_probability`, `entropy`, `accuracy` and
    `calibration_error`: the expected gap between confidence and accuracy over bins of the confidence (Guo et al. 2017).

    Of no positions: nothing.
    """
    values = sums.double().cpu()
    count = values[0].item()
    if count == 0:
        return {}
    means = dict(zip(_MEANS, (values[1 : len(_MEANS) + 1] / count).tolist(), strict=True))
    _, confidence, correct = values[len(_MEANS) + 1 :].view(BINS, 3).unbind(1)
    calibration_error = ((confidence - correct).abs().sum() / count).item()
    return {"logit_rms": means.pop("logit_mean_square") ** 0.5, "calibration_error": calibration_error, **means}
