"""Gradient descent on a plain MLP without autograd: its products written out, each weight updated where it lies.

Shapes: B examples, D = n width; O outputs and I inputs of a layer.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.config import ModelConfig
from pipeline.data.batches import Batch
from pipeline.losses import loss_and_gradients
from pipeline.models.mlp import MLP
from pipeline.products import product
from pipeline.training.module import TrainingModule

ROWS = 512  # of a weight that are updated at a time: what is subtracted stays in the cache
SMALL = 2**19  # numbers of a weight whose gradient's norm is read off the gradient itself


class Descent:
    """Steps of SGD on an MLP of matrices and activations alone.

    The gradient of W (O, I) is ``g_BO.T @ h_BI``. Of a wide one, its norm comes from B x B products, as |g^T h|_F^2 =
    sum((g g^T) * (h h^T)), so that no matrix of its size but W is ever written.
    """

    @staticmethod
    def suits(module: TrainingModule) -> bool:
        """Whether the run is one of these: without momentum, clipping, accumulation and bf16."""
        c = module.config
        plain = ModelConfig(kind="mlp", n_layer=c.model.n_layer, activation=c.model.activation)
        descends = c.optimizer == "sgd" and c.momentum == 0 and c.grad_clip is None
        return c.model == plain and descends and c.precision == "32-true" and module.accumulation == 1

    def __init__(self, module: TrainingModule, optimizer: Optimizer) -> None:
        mlp = module.model
        assert isinstance(mlp, MLP)
        self._weights = [layer.weight for layer in mlp.layers if isinstance(layer, nn.Linear)]
        self._relu = isinstance(mlp.activation, nn.ReLU)
        self._readout = mlp.readout.weight
        self._group = {id(p): group for group in optimizer.param_groups for p in group["params"]}

    @torch.no_grad()
    def __call__(
        self,
        module: TrainingModule,
        optimizer: Optimizer,
        batches: Sequence[Batch],
        before: Callable[[], None] | None,
    ) -> None:
        """One step. `before` it, where that is asked for, the parameters have the gradient."""
        ((x_BI, targets_B),) = batches
        inputs = self._forward(x_BI)
        passed, (g_BD, of_readout, _) = loss_and_gradients(
            inputs[-1], self._readout, targets_B, None, module.loss_settings
        )
        assert g_BD is not None
        assert of_readout is not None
        module.passes.append(passed)
        outward = self._backward(g_BD, inputs)
        if before is not None:
            self._show(before, of_readout, outward, inputs)
        squares = [partial(_square, of_readout)]
        self._decay_(self._readout).sub_(of_readout, alpha=self._lr(self._readout))
        for weight, g_BO, h_BI in zip(self._weights, outward, inputs, strict=False):
            squares.append(_descend_(self._decay_(weight), g_BO, h_BI, self._lr(weight)))
        module.last_gradient_norm = lambda: torch.stack([square() for square in squares]).sum().sqrt()

    def _forward(self, x_BI: Tensor) -> list[Tensor]:
        """What every layer, and last the readout, is applied to."""
        inputs = [x_BI]
        for weight in self._weights:
            h = product(inputs[-1], weight)
            inputs.append(h.relu_() if self._relu else h)
        return inputs

    def _backward(self, g_BD: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The gradients of what every layer gives, before its activation."""
        outward = []
        for weight, h in zip(reversed(self._weights), reversed(inputs), strict=False):
            outward.append(torch.ops.aten.threshold_backward(g_BD, h, 0) if self._relu else g_BD)  # relu's
            if weight is not self._weights[0]:
                g_BD = product(outward[-1], weight.T)
        return outward[::-1]

    def _show(
        self, before: Callable[[], None], of_readout: Tensor, outward: Sequence[Tensor], inputs: Sequence[Tensor]
    ) -> None:
        self._readout.grad = of_readout
        for weight, g_BO, h_BI in zip(self._weights, outward, inputs, strict=False):
            weight.grad = g_BO.T @ h_BI
        before()
        for weight in (self._readout, *self._weights):
            weight.grad = None

    def _lr(self, weight: Tensor) -> float:
        lr: float = self._group[id(weight)]["lr"]
        return lr

    def _decay_(self, weight: Tensor) -> Tensor:
        decay: float = self._group[id(weight)]["weight_decay"]
        return weight.mul_(1 - self._lr(weight) * decay) if decay else weight


def _descend_(weight_OI: Tensor, g_BO: Tensor, h_BI: Tensor, lr: float) -> partial[Tensor]:
    """``weight -= lr * g.T @ h``; what gives |g.T @ h|_F^2, of which most steps are not asked."""
    if weight_OI.numel() <= SMALL:
        gradient_OI = product(g_BO.T, h_BI.T)
        weight_OI.sub_(gradient_OI, alpha=lr)
        return partial(_square, gradient_OI)
    g_OB, h_IB = g_BO.T.contiguous(), h_BI.T
    for start in range(0, len(weight_OI), ROWS):
        rows = slice(start, start + ROWS)
        weight_OI[rows].sub_(product(g_OB[rows], h_IB), alpha=lr)
    return partial(_square_of_product, g_BO, h_BI)


def _square(gradient: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(gradient)
    return norm.square()


def _square_of_product(g_BO: Tensor, h_BI: Tensor) -> Tensor:
    return torch.dot((g_BO @ g_BO.T).ravel(), (h_BI @ h_BI.T).ravel())
