"""The LightningModule of a run: model, loss, optimizer, and nothing else."""

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pipeline.config import RunConfig
from pipeline.data.shards import TokenWindows, training_batches, validation_batches
from pipeline.losses import linear_cross_entropy
from pipeline.models import gpt
from pipeline.models.init import initialize_
from pipeline.optim import FAMILY, build_optimizer, parameter_groups, schedule
from pipeline.parameterization import rules


class TrainingModule(pl.LightningModule):
    """A GPT at one width under one parameterization.

    `losses` and `logit_rms` collect one value per forward pass, `grad_norm` holds the last step's gradient norm before
    clipping; `pipeline.training.callbacks.Recorder` reads them.
    """

    def __init__(self, config: RunConfig, train: TokenWindows, val: TokenWindows) -> None:
        super().__init__()
        self.config = config
        self.parameterization = rules.get(config.param)
        self.model = gpt.build(config.model, config.width, config.seq_len)
        self.specs = gpt.tensor_specs(self.model, config.base_width)
        initialize_(
            self.model,
            self.specs,
            self.parameterization,
            config.width_point,
            config.seed,
            embedding_init=config.embedding_init,
            readout_init=config.readout_init,
        )
        self._train_windows, self._val_windows = train, val
        self.losses: list[Tensor] = []
        self.logit_rms: list[Tensor] = []
        self.grad_norm = torch.tensor(0.0)

    def loss(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Mean next-token cross-entropy of windows (B, T + 1), and the RMS of the logits."""
        h_BTD = self.model(tokens[:, :-1])
        readout = self.model.lm_head
        return linear_cross_entropy(h_BTD.flatten(0, 1), readout.weight, tokens[:, 1:].flatten(), readout.bias)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss, logit_rms = self.loss(batch)
        self.losses.append(loss.detach())
        self.logit_rms.append(logit_rms)
        return loss

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        self.grad_norm = torch.nn.utils.get_total_norm(gradients)
        if self.config.grad_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), self.config.grad_clip, self.grad_norm)

    def configure_optimizers(self) -> dict[str, Any]:
        c = self.config
        assert c.weight_decay is not None
        groups = parameter_groups(
            self.model.named_parameters(),
            {name: spec.role for name, spec in self.specs.items()},
            self.parameterization,
            FAMILY[c.optimizer],
            c.width_point,
            lr=c.lr,
            weight_decay=c.weight_decay,
            weight_decay_scaling=c.weight_decay_scaling,
        )
        optimizer = build_optimizer(c, groups)
        factor = lambda step: schedule(step, steps=c.steps, warmup_steps=c.warmup_steps, min_ratio=c.lr_min_ratio)  # noqa: E731
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def train_dataloader(self) -> Iterator[Tensor]:
        """Called by Lightning after a checkpoint is restored, so the step is all the state the data order needs."""
        assert self.config.micro_batch is not None
        return training_batches(
            self._train_windows,
            seed=self.config.seed,
            first_step=self.trainer.global_step,
            global_batch=self.config.global_batch,
            micro_batch=self.config.micro_batch,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean cross-entropy over the validation windows, all ranks together."""
        assert self.config.micro_batch is not None
        batches = validation_batches(
            self._val_windows,
            sequences=self.config.val_sequences,
            batch=self.config.micro_batch,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        total = torch.zeros(2, dtype=torch.float64, device="cpu")
        for batch in batches:
            with self.trainer.precision_plugin.val_step_context():
                loss, _ = self.loss(batch.to(self.device))
            total += torch.tensor([loss.item() * len(batch), len(batch)], dtype=torch.float64)
        total = self.trainer.strategy.reduce(total.to(self.device), reduce_op="sum")
        return float(total[0] / total[1])
