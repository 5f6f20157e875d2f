"""Curvature: the sharpness of a run while it trains, under every strategy."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from pipeline.config import RunConfig
from pipeline.diagnostics.sharpness import Sharpness
from pipeline.models.build import build
from pipeline.training.module import TrainingModule, first_samples, inputs_and_targets
from pipeline.training.parallel.ranks import summed, world
from pipeline.training.parallel.weights import is_sharded, whole


class Curvature:
    """Measures the Hessian of the training loss on a fixed probe, and the tangent kernel where it is asked for.

    The ranks share the probe where it divides evenly among them; otherwise each measures all of it. A model whose
    weights are sharded is put together again on every rank's device for the measurement, and given up after it.
    """

    def __init__(self, config: RunConfig, module: TrainingModule) -> None:
        self.config = config
        self.inputs, self.targets = inputs_and_targets(
            first_samples(module.data, config, config.diagnostics.sharpness_probe)
        )

    def measure(self, trainer: pl.Trainer, module: TrainingModule) -> dict[str, float]:
        """To be called by all ranks. Where the next measurement starts from is kept beside the module's weights."""
        c, d, device = self.config, self.config.diagnostics, module.device
        rank, size = world()
        shared = size > 1 and len(self.inputs) % size == 0
        mine = slice(rank, None, size) if shared else slice(None)
        sharpness = Sharpness(
            _unsharded(module.model, c, device),
            self.inputs[mine].to(device),
            self.targets[mine].to(device),
            c.loss,
            eigenvalues=d.eigenvalues,
            ntk=d.ntk,
            reduce=(lambda tensor: summed(tensor) / size) if shared else None,
            z_loss=c.z_loss,
            scale=c.loss_scale,
        )
        sharpness.load_state_dict(module.beside)
        values = sharpness.measure()
        module.beside |= sharpness.state_dict()
        return values


def _unsharded(model: nn.Module, config: RunConfig, device: torch.device) -> nn.Module:
    """The model itself, or a copy of it where no process has all its weights."""
    parameters = dict(model.named_parameters())
    if not any(map(is_sharded, parameters.values())):
        return model
    with device:
        built: tuple[nn.Module, Any] = build(config)
    copy = built[0]
    for name, parameter in copy.named_parameters():
        parameter.data.copy_(whole(parameters[name]))
        parameter.requires_grad_(parameters[name].requires_grad)
    return copy
